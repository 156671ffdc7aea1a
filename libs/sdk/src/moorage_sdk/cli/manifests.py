"""`apply -f`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from moorage_sdk.cli.context import AsJson, connect
from moorage_sdk.cli.output import print_json, print_line


def _shown(value: Any) -> str:
    return "(none)" if value is None else str(value)


def _lines(path: str, before: Any, after: Any) -> Iterator[str]:
    """A line a value; what is wholly new or gone is told value by value too."""
    parts = after if before is None else before if after is None else None
    if not isinstance(parts, dict):
        yield f"  {path}: {_shown(before)} -> {_shown(after)}"
        return
    for key, value in parts.items():
        is_new = before is None
        yield from _lines(f"{path}.{key}", None if is_new else value, value if is_new else None)


def apply_manifests(
    context: typer.Context,
    file: Annotated[Path, typer.Option("--file", "-f", help="YAML with one document a model; - reads stdin.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change; change nothing.")] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Roll out even the version that was last rolled back or aborted.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make deployments as a manifest declares them. Applying it again changes nothing."""
    from moorage_sdk.manifest import parse_manifests, read_manifests  # noqa: PLC0415 - keeps --help quick

    if str(file) == "-":
        declared = parse_manifests(typer.get_text_stream("stdin").read(), "stdin")
    else:
        declared = read_manifests(file)
    with connect(context) as client:
        applied = [(manifest.model, client.apply(manifest, dry_run=dry_run, again=again)) for manifest in declared]
    if as_json:
        print_json(
            [
                {"model": model, "changes": [change.model_dump(mode="json", by_alias=True) for change in changes]}
                for model, changes in applied
            ]
        )
        return
    for model, changes in applied:
        verb = "unchanged" if not changes else "would change" if dry_run else "changed"
        print_line(f"{model}: {verb}")
        for change in changes:
            for line in _lines(change.path, change.before, change.after):
                print_line(line)
