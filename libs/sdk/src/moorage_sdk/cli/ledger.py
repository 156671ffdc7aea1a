"""`usage` and `events`."""

import contextlib
from typing import Annotated

import typer

from moorage_sdk.cli.context import AsJson, connect
from moorage_sdk.cli.output import print_csv, print_json, print_line, print_rows
from moorage_sdk.errors import SdkError

_GROUPS = ("model", "version", "key", "hour")
_SUMS = ["requests", "errors", "rows", "bytes_in", "bytes_out", "busy_us"]


def usage(
    context: typer.Context,
    *,
    by: Annotated[str, typer.Option(help="Group by any of model,version,key,hour.")] = "model,version",
    start: Annotated[str | None, typer.Option("--from", help="From this time on, RFC 3339 or seconds.")] = None,
    end: Annotated[str | None, typer.Option("--to", help="Before this time.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what was used: requests, errors, rows, bytes and time in the model."""
    groups = [group.strip() for group in by.split(",") if group.strip()]
    if wrong := [group for group in groups if group not in _GROUPS]:
        raise SdkError(f"--by {', '.join(wrong)}: group by any of {', '.join(_GROUPS)}")
    with connect(context) as client:
        found = client.registry.usage(groups, start=start, end=end)
    columns = [*groups, *_SUMS]
    if as_json:
        print_json(found)
    elif as_csv:
        print_csv(found["rows"], columns)
    else:
        print_rows(found["rows"], columns)


def events(
    context: typer.Context,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with those to come, until Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what happened: versions, deployments, traffic, replicas, keys."""
    with connect(context) as client, contextlib.suppress(KeyboardInterrupt):
        for event in client.events(follow=follow):
            if as_json:
                print_line(event.model_dump_json())
            else:
                shown = " ".join(f"{key}={value}" for key, value in event.data.items() if not isinstance(value, dict))
                print_line(f"{event.time}\t{event.type}\t{event.subject}\t{shown}")
