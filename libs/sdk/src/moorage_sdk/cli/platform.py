"""`up`: the whole platform on this machine."""

import importlib
from pathlib import Path
from typing import Annotated

import typer

from moorage_sdk.errors import SdkError

_LAUNCHER = "moorage_local.up"


def up(  # noqa: PLR0917 - options of a command, given by name
    state: Annotated[Path, typer.Option(help="Directory that keeps all state.")] = Path(".moorage"),
    port: Annotated[int, typer.Option(help="The router's port; the others follow it. 0 takes free ones.")] = 8080,
    gpus: Annotated[int, typer.Option(min=0, help="Logical GPUs, on each node.")] = 2,
    nodes: Annotated[int, typer.Option(min=1, max=32, help="Ray nodes, all on this machine.")] = 1,
    routers: Annotated[int, typer.Option(min=1, max=64, help="Router processes on the router's port.")] = 1,
    warm: Annotated[int, typer.Option(min=0, max=64, help="Empty hosts that each node keeps ready.")] = 1,
    identity_issuer: Annotated[str, typer.Option(help="OpenID Connect provider that people sign in by.")] = "",
    queue_order: Annotated[str, typer.Option(help="Whose turn it is at a full place: fair, arrival, off.")] = "fair",
    no_demo: Annotated[bool, typer.Option("--no-demo", help="Do not push the demo model.")] = False,
) -> None:
    """Run the whole platform on this machine until Ctrl-C."""
    try:
        launcher = importlib.import_module(_LAUNCHER)
    except ModuleNotFoundError as error:
        if error.name not in (_LAUNCHER, "moorage_local"):
            raise
        raise SdkError("the platform itself is not installed; run: pip install moorage-local") from None
    code = launcher.main(
        state=state, port=port, gpus=gpus, demo=not no_demo, routers=routers, nodes=nodes, warm=warm,
        identity_issuer=identity_issuer, queue_order=queue_order,
    )  # fmt: skip
    raise typer.Exit(code)
