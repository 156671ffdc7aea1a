"""`nodes list | drain | undrain`, for administrators."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from moorage_sdk.cli.context import AsJson, connect, say
from moorage_sdk.cli.output import print_json, print_rows
from moorage_sdk.errors import MoorageApiError, WaitTimedOut

if TYPE_CHECKING:
    from moorage_common.contracts.answers import NodeView
    from moorage_sdk.client import Client

app = typer.Typer(help="Nodes of the cluster (administrators).", no_args_is_help=True)

NodeName = Annotated[str, typer.Argument(help="The node, as `moorage nodes list` names it.", metavar="NODE")]

_POLL_S = 0.5


@app.command("list")
def list_nodes(context: typer.Context, as_json: AsJson = False) -> None:
    """List the nodes: what they have, what is free of it, and how many replicas sit there."""
    with connect(context) as client:
        found = client.registry.nodes()
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    columns = ["node", "gpu_model", "gpus", "gpu_free", "cpu_free", "memory_mib_free", "replicas", "drained"]
    print_rows([_row(node) for node in found.nodes], columns)


def _row(node: "NodeView") -> dict[str, object]:
    return {
        "node": node.name,
        "gpu_model": node.gpu_model,
        "gpus": len(node.devices),
        "gpu_free": sum(device.free_milli for device in node.devices) / 1000,
        "cpu_free": node.free_cpu_milli / 1000,
        "memory_mib_free": node.free_mem_mib,
        "replicas": node.replicas(),
        "drained": "drained" if node.drained else "",
    }


@app.command()
def drain(
    context: typer.Context,
    node: NodeName,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait until the node is empty.")] = False,
    timeout: Annotated[str, typer.Option(help="How long to wait, such as 90s or 30m.")] = "30m",
) -> None:
    """Empty a node: it takes no more replicas, and each it has stops once another one answers in its place."""
    from moorage_sdk.quantities import parse_duration  # noqa: PLC0415 - keeps --help quick

    timeout_s = parse_duration(timeout, "--timeout")
    with connect(context) as client:
        client.registry.drain_node(node)
        say(f"{node} takes no more replicas; `moorage nodes undrain {node}` takes that back")
        if not no_wait:
            wait_until_empty(client, node, timeout_s)


@app.command()
def undrain(context: typer.Context, node: NodeName) -> None:
    """Have a node take replicas again."""
    with connect(context) as client:
        client.registry.undrain_node(node)
    say(f"{node} takes replicas again")


def wait_until_empty(client: "Client", node: str, timeout_s: float) -> None:
    """Poll until no replica sits on the node, telling of each change.

    Raises:
        WaitTimedOut: after `timeout_s`, naming those that are left.
    """
    deadline = time.monotonic() + timeout_s
    told = ""
    while (view := _look(client, node)) is None or view.replicas():
        if view is not None and (left := _left(view)) != told:
            told = left
            say(f"{node}: {view.replicas()} left: {left}")
        if time.monotonic() > deadline:
            raise WaitTimedOut(f"{node} is not empty after {timeout_s:g} s: {_left(view)}; the drain goes on")
        time.sleep(_POLL_S)
    say(f"{node} is empty")


def _look(client: "Client", node: str) -> "NodeView | None":
    """The node, empty where the cluster has it no more; None while the scheduler does not answer."""
    from moorage_common.contracts.answers import NodeView  # noqa: PLC0415 - keeps --help quick

    try:
        found = client.registry.nodes()
    except MoorageApiError as error:
        if error.code not in ("scheduler_silent", "unreachable"):
            raise
        return None
    return next((view for view in found.nodes if view.name == node), NodeView(name=node))


def _left(view: "NodeView | None") -> str:
    from moorage_sdk.pictures.moves import named, plain, seats_of  # noqa: PLC0415 - as above

    if view is None:
        return "the scheduler does not answer"
    seats = {(named(seat), view.left.get(seat.host_id) or seat.state or "starting") for seat in seats_of(view)}
    return ", ".join(f"{name} ({plain(why, 400)})" for name, why in sorted(seats))
