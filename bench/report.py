"""What every benchmark prints and keeps: the machine, a table, a JSON file."""

import datetime
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, str]:
    """What a reader needs to compare: processor count, system, Python, the day."""
    model = "unknown processor"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return {
        "processor": f"{os.cpu_count()} x {model}",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def table(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print `rows` (all with the same keys) as a table."""
    drawn = Table(title=title)
    for name in rows[0]:
        drawn.add_column(name, justify="right")
    for row in rows:
        drawn.add_row(*(str(v) for v in row.values()))
    Console(width=140).print(drawn)


def keep(name: str, results: Mapping[str, Any]) -> Path:
    """Write `bench/results/<name>.json` with the machine."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **results}, indent=1) + "\n")
    return path
