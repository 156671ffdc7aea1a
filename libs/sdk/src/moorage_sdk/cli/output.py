"""Printing: tables on a terminal, tab separated values otherwise, JSON where asked."""

import csv
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def print_line(text: str) -> None:
    sys.stdout.write(harmless(text) + "\n")


def harmless(text: str) -> str:
    """`text` without what a terminal would obey: reasons and log lines are what somebody's model said."""
    return "".join(letter if letter.isprintable() or letter in "\t\n" else "?" for letter in text)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return harmless(",".join(str(item) for item in value))
    return harmless(" ".join(str(value).split()))


def print_rows(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool = False) -> None:
    """`columns` of each row under a line of their names; with `as_json` the whole rows."""
    every = list(rows)
    if as_json:
        print_json(every)
        return
    cells = [[_cell(row.get(column)) for column in columns] for row in every]
    if not sys.stdout.isatty():
        for line in [list(columns), *cells]:
            print_line("\t".join(line))
        return
    from rich.console import Console  # noqa: PLC0415 - only a terminal needs it
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for line in cells:
        table.add_row(*line)
    Console(highlight=False, markup=False).print(table)


def print_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """RFC 4180 with a header line."""
    writer = csv.DictWriter(sys.stdout, fieldnames=list(columns), extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
