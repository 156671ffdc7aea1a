"""`infer`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from moorage_sdk.cli.context import ModelName, connect
from moorage_sdk.cli.output import print_json
from moorage_sdk.errors import SdkError


def _read(data: str) -> Any:
    """`@file`, `-` for stdin, or JSON itself."""
    if data == "-":
        text = typer.get_text_stream("stdin").read()
    elif data.startswith("@"):
        try:
            text = Path(data[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SdkError(f"{data[1:]} cannot be read: {error}") from None
    else:
        text = data
    try:
        return json.loads(text)
    except ValueError as error:
        raise SdkError(f"the data is not JSON ({error}); give @FILE, - or JSON such as '[[1.0, 2.0]]'") from None


def infer(
    context: typer.Context,
    model: ModelName,
    data: Annotated[
        str,
        typer.Option(
            help="@FILE, - for stdin, or JSON: a V2 request, a mapping of input to rows, or the only input's rows."
        ),
    ],
    version: Annotated[int | None, typer.Option(help="Ask this version, whatever the traffic.")] = None,
) -> None:
    """Ask a model; prints the answer as the Open Inference Protocol's JSON."""
    found = _read(data)
    with connect(context) as client:
        print_json(client.infer(model, found, version=version, raw=True))
