"""`push`, `models` and `versions`."""

from pathlib import Path
from typing import Annotated

import typer

from moorage_sdk.cli.context import AsJson, ModelName, connect, say
from moorage_sdk.cli.output import print_json, print_line, print_rows


def push(
    context: typer.Context,
    *,
    file: Annotated[
        str,
        typer.Argument(help="A model file: .onnx, .skops, .ubj, .json or .txt; or an application: pipeline.py:app."),
    ],
    name: Annotated[str, typer.Option(help="The model's name.")],
    example: Annotated[
        Path | None, typer.Option(help="Inputs to answer and compare: .npy, .npz, .csv, or .json (a V2 request).")
    ] = None,
    model_format: Annotated[
        str | None, typer.Option("--format", help="ray-serve for an application, which is code; else told by the file.")
    ] = None,
    include: Annotated[
        list[str] | None, typer.Option(help="Files that go along with an application's Python files: 'weights/*.npz'.")
    ] = None,
    feature_service: Annotated[str | None, typer.Option(help="Feature service whose features it takes.")] = None,
    new: Annotated[bool, typer.Option("--new", help="Make a new version even where an equal one is there.")] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait for validation.")] = False,
    as_json: AsJson = False,
) -> None:
    """Push a model file as a new version; it is validated on a host against the example's answers."""
    from moorage_sdk.inputs import read_inputs  # noqa: PLC0415 - keeps --help quick

    with connect(context) as client:
        version = client.push(
            file,
            name=name,
            example=None if example is None else read_inputs(example),
            format=model_format,
            include=include or (),
            feature_service=feature_service,
            wait=not no_wait,
            new=new,
        )
    if as_json:
        print_json(version.model_dump(mode="json"))
    else:
        print_line(f"{version.model}\t{version.version}\t{version.state}")


def models(context: typer.Context, as_json: AsJson = False) -> None:
    """List the models."""
    with connect(context) as client:
        rows = client.registry.models()
    print_rows(rows, ["model", "versions", "latest", "created_at"], as_json=as_json)


def versions(context: typer.Context, model: ModelName, as_json: AsJson = False) -> None:
    """List the versions of a model."""
    with connect(context) as client:
        found = client.registry.versions(model)
    rows = [{**version.model_dump(mode="json"), "max_abs_diff": version.max_abs_diff} for version in found]
    columns = ["version", "state", "format", "size_bytes", "max_abs_diff", "unchecked", "created_at", "reason"]
    print_rows(rows, columns, as_json=as_json)
    for version in found if not as_json else []:
        if version.state == "rejected":
            say(f"version {version.version} was rejected; push a corrected model to get a new version")
            break
