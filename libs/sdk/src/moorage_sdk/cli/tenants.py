"""`tenants list | create`, for administrators."""

import typer

from moorage_sdk.cli.context import AsJson, connect, say
from moorage_sdk.cli.output import print_json, print_rows

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
