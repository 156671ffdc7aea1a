"""`deploy`, `traffic`, `status` and `logs`."""

from typing import Annotated, Literal

import typer

from moorage_sdk.cli.context import AsJson, ModelName, connect, parse_weights, say
from moorage_sdk.cli.output import print_json, print_line, print_rows


def deploy(
    context: typer.Context,
    *,
    model: ModelName,
    version: Annotated[int | None, typer.Option(help="The version; the latest when left out.")] = None,
    gpu: Annotated[str, typer.Option(help="Share of a GPU, such as 0.5 or 500m, or whole GPUs.")] = "0",
    gpu_memory: Annotated[str | None, typer.Option(help="GPU memory, such as 4Gi.")] = None,
    cpu: Annotated[str | None, typer.Option(help="CPU, such as 500m or 2.")] = None,
    memory: Annotated[str | None, typer.Option(help="Memory, such as 1Gi.")] = None,
    least: Annotated[int, typer.Option("--min", min=0, help="Least replicas.")] = 1,
    most: Annotated[int, typer.Option("--max", min=1, help="Most replicas.")] = 1,
    isolation: Annotated[
        Literal["dedicated", "pooled"], typer.Option(help="A process of its own, or one shared by small models.")
    ] = "dedicated",
    traffic: Annotated[
        list[str] | None, typer.Option(help="VERSION=PERCENT, once a version.", metavar="VERSION=PERCENT")
    ] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait for a ready replica.")] = False,
    as_json: AsJson = False,
) -> None:
    """Deploy a version beside those deployed already, or change how it runs. Prints the URL."""
    with connect(context) as client:
        endpoint = client.deploy(
            model,
            version=version,
            gpu=gpu,
            gpu_memory=gpu_memory,
            cpu=cpu,
            memory=memory,
            min=least,
            max=max(most, least),
            isolation=isolation,
            traffic=parse_weights(traffic) if traffic else None,
            wait=not no_wait,
        )
    if as_json:
        print_json({"model": endpoint.name, "url": endpoint.url})
    else:
        print_line(endpoint.url)


def traffic(
    context: typer.Context,
    model: ModelName,
    weights: Annotated[
        list[str] | None, typer.Argument(help="VERSION=PERCENT of every version, adding up to 100.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show how a model's traffic is split, or set it: moorage traffic digits 1=90 2=10."""
    with connect(context) as client:
        found = client.set_traffic(model, parse_weights(weights)) if weights else client.registry.traffic(model)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    rows = [{"version": arm.version, "percent": arm.weight_bp / 100, "role": arm.role} for arm in found.arms]
    print_rows(rows, ["version", "percent", "role"])


def status(
    context: typer.Context,
    model: Annotated[str | None, typer.Argument(help="The model; every deployed one when left out.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what runs: replicas, where, in which state and why."""
    with connect(context) as client:
        names = [model] if model else [str(row["model"]) for row in client.registry.deployments()]
        rows = [
            {"model": name, **replica.model_dump(mode="json")}
            for name in names
            for replica in client.registry.status(name).replicas
        ]
    columns = ["model", "version", "state", "node", "devices", "gpu_milli", "restarts", "host_id", "reason"]
    print_rows(rows, columns, as_json=as_json)
    if not rows and not as_json:
        say("no replica runs; deploy a model: moorage deploy MODEL")


def logs(context: typer.Context, model: ModelName) -> None:
    """Print the last log lines of a model's hosts."""
    with connect(context) as client:
        for line in client.registry.logs(model):
            print_line(line)
