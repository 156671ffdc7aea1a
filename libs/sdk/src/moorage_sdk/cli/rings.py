"""`rings list | set | delete`."""

from typing import Annotated

import typer

from moorage_sdk.cli.context import AsJson, connect, say
from moorage_sdk.cli.output import print_json, print_rows

app = typer.Typer(help="Named groups of callers, which get a version before others.", no_args_is_help=True)

RingName = Annotated[str, typer.Argument(help="The ring's name.", metavar="RING")]


@app.command("list")
def list_rings(context: typer.Context, as_json: AsJson = False) -> None:
    """List the rings, who is in them, and which models use them."""
    with connect(context) as client:
        rows = [ring.model_dump(mode="json") for ring in client.registry.rings()]
    print_rows(rows, ["name", "header", "values", "kids", "used_by"], as_json=as_json)
    if not rows and not as_json:
        say("there is no ring; make one: moorage rings set beta --header x-user --value ann")


@app.command("set")
def set_ring(
    context: typer.Context,
    *,
    ring: RingName,
    header: Annotated[str, typer.Option(help="Header by which its callers are known, such as x-user.")] = "",
    value: Annotated[list[str] | None, typer.Option(help="A value of that header, once a value.")] = None,
    key: Annotated[list[str] | None, typer.Option(help="Id of one of its callers' API keys, once a key.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a ring, or change who is in it: all of its members, by a header's values or by keys."""
    with connect(context) as client:
        made = client.registry.put_ring(ring, header=header, values=value or (), kids=key or ())
    if as_json:
        print_json(made.model_dump(mode="json"))
        return
    say(f"ring {made.name} has {len(made.values) + len(made.kids)} members")


@app.command()
def delete(context: typer.Context, ring: RingName) -> None:
    """Delete a ring that no traffic uses."""
    with connect(context) as client:
        client.registry.delete_ring(ring)
    say(f"ring {ring} is deleted")
