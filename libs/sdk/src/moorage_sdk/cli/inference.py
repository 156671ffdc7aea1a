"""`infer`."""

from typing import Annotated

import typer

from moorage_sdk.cli.context import ModelName, connect
from moorage_sdk.cli.data import DATA_HELP, read_data
from moorage_sdk.cli.output import print_json


def infer(
    context: typer.Context,
    model: ModelName,
    data: Annotated[str, typer.Option(help=DATA_HELP)],
    version: Annotated[int | None, typer.Option(help="Ask this version, whatever the traffic.")] = None,
) -> None:
    """Ask a model; prints the answer as the Open Inference Protocol's JSON."""
    found = read_data(data)
    with connect(context) as client:
        print_json(client.infer(model, found, version=version, raw=True))
