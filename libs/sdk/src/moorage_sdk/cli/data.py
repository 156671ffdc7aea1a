"""Inputs as the command takes them."""

import json
from pathlib import Path
from typing import Any

import typer

from moorage_sdk.errors import SdkError

DATA_HELP = (
    "@FILE (.json, .npy, .npz, .csv), - for stdin, or JSON: a V2 request, a mapping of input to rows, or the only "
    "input's rows."
)


def read_data(data: str) -> Any:
    """`@file`, `-` for stdin, or JSON itself.

    Raises:
        SdkError: it cannot be read, or is not JSON.
    """
    if data == "-":
        text = typer.get_text_stream("stdin").read()
    elif data.startswith("@"):
        path = Path(data[1:])
        if path.suffix in (".npy", ".npz", ".csv"):
            from moorage_sdk.inputs import read_inputs  # noqa: PLC0415 - keeps --help quick

            return read_inputs(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SdkError(f"{data[1:]} cannot be read: {error}") from None
    else:
        text = data
    try:
        return json.loads(text)
    except ValueError as error:
        raise SdkError(f"the data is not JSON ({error}); give @FILE, - or JSON such as '[[1.0, 2.0]]'") from None
