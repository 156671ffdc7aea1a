"""`tenants list | show | create | suspend | resume | delete | export`, for administrators."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from moorage_sdk.cli.context import AsJson, connect, say
from moorage_sdk.cli.output import print_json, print_rows

_LOOK_S = 0.5

TenantName = Annotated[str, typer.Argument(help="The tenant's name.", metavar="TENANT")]

app = typer.Typer(help="Tenants of the platform (administrators).", no_args_is_help=True)


@app.command("list")
def list_tenants(context: typer.Context, as_json: AsJson = False) -> None:
    """List the tenants."""
    with connect(context) as client:
        rows = client.registry.tenants()
    columns = ["name", "status", "requests_per_s", "max_concurrent", "gpu_milli"]
    print_rows([row if as_json else {**row, **row["limits"]} for row in rows], columns, as_json=as_json)


@app.command()
def create(context: typer.Context, name: str, as_json: AsJson = False) -> None:
    """Make a tenant."""
    with connect(context) as client:
        made = client.registry.create_tenant(name)
    if as_json:
        print_json(made)
    else:
        say(f"tenant {name} is there; give it a key: moorage --tenant {name} keys create SCOPE ...")


@app.command()
def show(context: typer.Context, name: TenantName, as_json: AsJson = False) -> None:
    """Show a tenant, and how far its deletion is."""
    with connect(context) as client:
        told = client.tenants.get(name)
    row = told if as_json else {**told, "remaining": remaining_of(told)}
    if as_json:
        print_json(row)
    else:
        print_rows([row], ["name", "status", "created_at", "remaining"])


@app.command()
def suspend(context: typer.Context, name: TenantName) -> None:
    """Have a tenant's keys refused, everywhere within a second. What runs goes on, and nothing is lost."""
    with connect(context) as client:
        client.tenants.suspend(name)
    say(f"tenant {name} is suspended; moorage tenants resume {name} lets it in again")


@app.command()
def resume(context: typer.Context, name: TenantName) -> None:
    """Accept a suspended tenant's keys again."""
    with connect(context) as client:
        client.tenants.resume(name)
    say(f"tenant {name} is active")


@app.command()
def delete(
    context: typer.Context,
    name: TenantName,
    confirm: Annotated[str, typer.Option(help="The tenant's name again: what it has is removed for good.")],
    wait: Annotated[bool, typer.Option("--wait", help="Until all is removed.")] = False,
) -> None:
    """Remove all that a tenant has. Its ledger and audit trail stay, and its name is never given again."""
    with connect(context) as client:
        told, said = client.tenants.delete(name, confirm=confirm), ""
        while wait and told["status"] == "deleting":
            left = remaining_of(told)
            if left and left != said:
                say(left)
            said = left
            time.sleep(_LOOK_S)
            told = client.tenants.get(name)
    say(f"tenant {name} is {'deleted' if told['status'] == 'deleted' else 'being deleted'}")


@app.command()
def export(context: typer.Context, name: TenantName, path: Annotated[Path, typer.Argument(help="A file.")]) -> None:
    """Write all that a tenant has to a tar: models, artifacts, deployments, keys without secrets, usage, audit."""
    with connect(context) as client:
        size = client.tenants.export(name, path)
    say(f"{path}: {size / 1e6:.1f} MB")


def remaining_of(told: dict[str, Any]) -> str:
    """What is still to go of a tenant that is being deleted, in words."""
    deletion: dict[str, Any] = told.get("deletion") or {}
    left = ", ".join(f"{count} {kind}" for kind, count in deletion.get("remaining", {}).items())
    waits = deletion.get("waits_for", "")
    return "; ".join(part for part in (left, f"waits: {waits}" if waits else "") if part)
