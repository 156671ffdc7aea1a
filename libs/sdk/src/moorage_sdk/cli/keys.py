"""`keys list | create | revoke`."""

from typing import Annotated

import typer

from moorage_sdk.cli.context import AsJson, connect, say
from moorage_sdk.cli.output import print_json, print_line, print_rows

app = typer.Typer(help="API keys of the tenant.", no_args_is_help=True)


@app.command("list")
def list_keys(context: typer.Context, as_json: AsJson = False) -> None:
    """List the keys; a key's text is shown only when it is made."""
    with connect(context) as client:
        rows = client.registry.keys()
    print_rows(rows, ["kid", "scopes", "created_at", "expires_at", "revoked_at"], as_json=as_json)


@app.command()
def create(
    context: typer.Context,
    scopes: Annotated[
        list[str], typer.Argument(help="For instance infer:digits, 'infer:*', models:write, deploy:write, usage:read.")
    ],
    test: Annotated[bool, typer.Option("--test", help="Make a key of the test environment.")] = False,
    expires_in_s: Annotated[float | None, typer.Option(help="Seconds until it expires.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key with SCOPES, a subset of those of the key in use. Its text is printed this once."""
    with connect(context) as client:
        made = client.registry.create_key(scopes, environment="test" if test else "live", expires_in_s=expires_in_s)
    if as_json:
        print_json(made)
        return
    say(f"key {made['kid']}, shown this once:")
    print_line(str(made["key"]))


@app.command()
def revoke(context: typer.Context, kid: Annotated[str, typer.Argument(help="The key's id.")]) -> None:
    """Revoke a key; routers refuse it within a second."""
    with connect(context) as client:
        client.registry.revoke_key(kid)
    say(f"key {kid} is revoked")
