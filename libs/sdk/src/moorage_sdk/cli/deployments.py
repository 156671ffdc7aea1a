"""`deploy`, `status` and `logs`."""

from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from moorage_sdk.cli.context import AsJson, ModelName, connect, parse_pairs, parse_profiles, parse_weights, say
from moorage_sdk.cli.output import print_json, print_line, print_rows

if TYPE_CHECKING:
    from moorage_sdk.spec import Placing

Isolation = Annotated[
    Literal["dedicated", "pooled"], typer.Option(help="A process of its own, or one shared by small models.")
]
Weights = Annotated[list[str] | None, typer.Option(help="VERSION=PERCENT, once a version.", metavar="VERSION=PERCENT")]
GpuModels = Annotated[list[str] | None, typer.Option(help="GPU model it may run on, once a model.", metavar="MODEL")]
GpuProfiles = Annotated[
    list[str] | None,
    typer.Option(help="What it takes of a GPU model, such as H100=0.2 or H100=0.2,4Gi.", metavar="MODEL=GPU[,MEM]"),
]
NodeLabels = Annotated[list[str] | None, typer.Option(help="Label that the node must carry.", metavar="NAME=VALUE")]
InClass = Annotated[
    Literal["standard", "scavenger"] | None, typer.Option("--class", help="scavenger: only on what nobody wants.")
]


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
    isolation: Isolation = "dedicated",
    traffic: Weights = None,
    gpu_model: GpuModels = None,
    gpu_profile: GpuProfiles = None,
    elastic: Annotated[str | None, typer.Option(help="Per cent of --gpu that may be left out, at most 50.")] = None,
    node_label: NodeLabels = None,
    idle: Annotated[str | None, typer.Option(help="With --min 0: none after so long without a request: 5m.")] = None,
    scheduling_class: InClass = None,
    priority: Annotated[int | None, typer.Option(min=0, max=100, help="Within the tenant; 50 if left out.")] = None,
    pinned: Annotated[bool | None, typer.Option("--pinned/--movable", help="Never moved to make room.")] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait for a ready replica.")] = False,
    as_json: AsJson = False,
) -> None:
    """Deploy a version beside those deployed already, or change how it runs. Prints the URL."""
    found = {
        "gpu_models": gpu_model or None,
        "gpu_profiles": parse_profiles(gpu_profile) if gpu_profile else None,
        "elastic": elastic,
        "node_labels": parse_pairs(node_label, "NAME=VALUE") if node_label else None,
        "idle": idle,
        "scheduling_class": scheduling_class,
        "priority": priority,
        "pinned": pinned,
    }
    placing = cast("Placing", {name: value for name, value in found.items() if value is not None})
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
            **placing,
        )
    if as_json:
        print_json({"model": endpoint.name, "url": endpoint.url})
    else:
        print_line(endpoint.url)


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
