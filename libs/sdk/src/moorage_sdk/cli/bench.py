"""`bench`."""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moorage_sdk.cli.context import ModelName, connect, say
from moorage_sdk.cli.data import DATA_HELP, read_data
from moorage_sdk.cli.output import print_json, print_rows
from moorage_sdk.errors import MoorageApiError, SdkError

if TYPE_CHECKING:
    from moorage_sdk.bench.load import Bounds, Tick
    from moorage_sdk.bench.report import Report
    from moorage_sdk.bench.statistics import Observed
    from moorage_sdk.client import Client

CONNECTIONS_MAX = 1024


def parse_connections(text: str) -> list[int]:
    """`1,8,32` as numbers.

    Raises:
        SdkError: another form, or more than CONNECTIONS_MAX.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 1 <= int(part[:6]) <= CONNECTIONS_MAX for part in parts):
        raise SdkError(f"--connections {text}: give numbers from 1 to {CONNECTIONS_MAX}, such as 1,8,32")
    return [int(part) for part in parts]


def bench(
    context: typer.Context,
    *,
    model: ModelName,
    data: Annotated[str | None, typer.Option(help=f"{DATA_HELP} Zeros by the signature when left out.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows of the zeros.")] = 1,
    connections: Annotated[str, typer.Option(help="Connections at once, a step each.")] = "1,8,32",
    seconds: Annotated[float, typer.Option(min=0.1, max=600, help="Time of a step, at most.")] = 10.0,
    requests: Annotated[int | None, typer.Option(min=1, help="Requests of a step, at most.")] = None,
    version: Annotated[int | None, typer.Option(help="Ask this version, whatever the traffic.")] = None,
    binary: Annotated[bool, typer.Option("--binary/--json", help="Tensors as raw bytes or as JSON.")] = True,
    json_output: Annotated[bool, typer.Option("--json-output", help="Print JSON.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write JSON to this file too.", metavar="FILE")] = None,
) -> None:
    """Drive a model and draw its latencies.

    Each connection sends its next request when the last one is answered (a closed loop), so the load falls when answers
    slow down, and a stall is counted once a connection, not once for each request that would have come meanwhile
    (coordinated omission): read the tail as what so many callers in turn see, not as what a fixed rate would see.
    Requests are billed and count against the quota; those over it are answered 429, counted apart, and in no
    percentile. This process needs CPU too: drive a fast model from another machine, or read the rates as lower bounds.
    """
    from moorage_sdk.bench.load import Bounds  # noqa: PLC0415 - keeps --help quick

    steps = parse_connections(connections)
    given = None if data is None else read_data(data)
    bounds = Bounds(seconds, requests)
    with connect(context) as client:
        report = _measure(client, model, given, steps, bounds, rows=rows, version=version, binary=binary)
    if out is not None:
        out.write_text(json.dumps(report.document(), indent=2) + "\n", encoding="utf-8")
    _show(report, as_json=json_output)
    if not any(step.answered for step in report.steps):
        raise SdkError(f"{model} answered no request with 200; see the errors above")


def _measure(
    client: "Client",
    model: str,
    given: Any,
    steps: list[int],
    bounds: "Bounds",
    *,
    rows: int,
    version: int | None,
    binary: bool,
) -> "Report":
    """Ask once by the ordinary way, then drive step by step."""
    from moorage_sdk.bench import payload  # noqa: PLC0415 - as above
    from moorage_sdk.bench.connection import Target  # noqa: PLC0415
    from moorage_sdk.bench.load import run_step  # noqa: PLC0415
    from moorage_sdk.bench.report import Report  # noqa: PLC0415
    from moorage_sdk.bench.statistics import summarize  # noqa: PLC0415

    inference = client.endpoint(model).inference
    inputs = payload.zeros(inference.metadata(model, version).inputs, rows) if given is None else given
    try:
        inference.infer(model, inputs, version=version, binary=binary)
    except MoorageApiError as error:
        if given is None and error.status in (400, 422, 500):
            raise SdkError(f"{model} does not take zeros: {error.message}; give rows that it takes: --data") from error
        raise
    call = inference.call(model, inputs, version=version, binary=binary)
    _warn(client, steps)
    target = Target.of(inference.router.service, call)
    measured = []
    for connections in steps:
        with _watched(connections, bounds.seconds) as tick:
            measured.append(summarize(run_step(target, connections, bounds, tick)))
    described = f"{'zeros, ' if given is None else ''}{payload.described(inputs)}, {payload.encoding(call)}"
    return Report(model, version, inference.router.base_url, described, len(call.body), measured)


def _warn(client: "Client", steps: list[int]) -> None:
    """Tell the quota, where the registry tells it: what is over it is refused, and that is then what is measured."""
    with contextlib.suppress(SdkError, KeyError):
        limits = client.registry.tenant(client.registry.whoami()["tenant"])["limits"]
        say(
            f"quota: {limits['requests_per_s']:g} requests/s (burst {limits['burst']}), {limits['max_concurrent']} at "
            "once; what is over it is answered 429"
        )
        if max(steps) > limits["max_concurrent"]:
            say(f"warning: {max(steps)} connections are more than the {limits['max_concurrent']} at once of the quota")


@contextlib.contextmanager
def _watched(connections: int, seconds: float) -> Iterator["Tick"]:
    """Progress on a terminal; a line a step elsewhere."""
    if not sys.stderr.isatty():
        say(f"connections: {connections}, at most {seconds:g} s")
        yield lambda _observed: None
        return
    from rich.console import Console  # noqa: PLC0415 - only a terminal needs it
    from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"{connections} connections", total=seconds, rate="")

        def tick(observed: "Observed") -> None:
            answered = len(observed.latencies_s)
            rate = f"{answered / max(observed.seconds, 1e-9):,.0f} requests/s, {observed.errors.total():,} refused"
            progress.update(task, completed=min(seconds, observed.seconds), rate=rate)

        yield tick


def _show(report: "Report", *, as_json: bool) -> None:
    from moorage_sdk.bench.report import COLUMNS, draw, rows_of  # noqa: PLC0415 - as above

    if as_json:
        print_json(report.document())
    elif not sys.stdout.isatty():
        print_rows(rows_of(report.steps), COLUMNS)
    else:
        from rich.console import Console  # noqa: PLC0415

        draw(Console(highlight=False, markup=False), report)
    for step in report.steps:
        if step.over_quota:
            say(
                f"warning: over {step.connections} connections {step.over_quota:,} requests were over the quota: the "
                "rate is the quota's, not the model's"
            )
