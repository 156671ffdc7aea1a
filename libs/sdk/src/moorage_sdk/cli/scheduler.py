"""`scheduler state | replay`: what placement decided by, and whether it would decide the same again."""

import importlib
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from moorage_sdk.cli.context import AsJson, connect
from moorage_sdk.cli.output import print_json, print_rows
from moorage_sdk.errors import SdkError

app = typer.Typer(help="The scheduler's decisions (administrators).", no_args_is_help=True)

_REPLAY = "moorage_scheduler.replay"
_PACKAGE = "moorage_scheduler"


@app.command()
def state(context: typer.Context) -> None:
    """Print all that placement decides by, with the last decisions, as JSON: moorage scheduler state > state.json."""
    with connect(context) as client:
        print_json(client.registry.cluster_state())


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(help="What `moorage scheduler state` printed.", metavar="FILE")],
    ask: Annotated[
        str | None,
        typer.Option(help="Decide on this too, against the last state: '{\"gpu_milli\": 500}'.", metavar="JSON"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make the recorded decisions again, here, and say whether each comes out the same. Asks no platform."""
    recorded = _read(file.read_text, str(file))
    asked = None if ask is None else _read(lambda: ask, "--ask")
    module = _replay_module()
    try:
        outcome: dict[str, Any] = module.replay(recorded, asked)
    except ValueError as error:
        raise SdkError(f"{file}: {error}") from error
    if as_json:
        print_json(outcome)
    else:
        print_rows(outcome["decisions"], ["number", "ask", "recorded", "replayed", "same"])
        if asked is not None:
            print_rows([outcome["asked"]], ["ask", "decided"])
    different = sum(not row["same"] for row in outcome["decisions"])
    if different:
        total = len(outcome["decisions"])
        raise SdkError(f"{different} of {total} decisions came out otherwise; is this the scheduler that made them?")


def _replay_module() -> Any:
    try:
        return importlib.import_module(_REPLAY)
    except ModuleNotFoundError as error:
        if error.name not in (_REPLAY, _PACKAGE):
            raise
        raise SdkError("the scheduler itself is not installed; run: pip install moorage-scheduler") from None


def _read(text: Any, source: str) -> dict[str, Any]:
    try:
        found = json.loads(text())
    except (OSError, ValueError) as error:
        raise SdkError(f"{source} cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise SdkError(f"{source} is not a JSON object")
    return found
