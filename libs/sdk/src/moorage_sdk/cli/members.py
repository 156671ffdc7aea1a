"""`members list | set | remove`."""

from typing import Annotated

import typer

from moorage_common.contracts.roles import ROLES
from moorage_sdk.cli.context import AsJson, connect, say
from moorage_sdk.cli.output import print_json, print_rows

app = typer.Typer(help="People of the tenant, and what they may do.", no_args_is_help=True)

Subject = Annotated[str, typer.Argument(help="The person's id at the identity provider; a refused sign-in names it.")]


@app.command("list")
def list_members(context: typer.Context, as_json: AsJson = False) -> None:
    """List the members."""
    with connect(context) as client:
        rows = client.people.members()
    print_rows(rows, ["subject", "name", "role", "created_at"], as_json=as_json)


@app.command("set")
def set_member(
    context: typer.Context,
    subject: Subject,
    role: Annotated[str, typer.Option(help=f"One of {', '.join(ROLES)}.")],
    name: Annotated[str | None, typer.Option(help="A name for people to read.")] = None,
    as_json: AsJson = False,
) -> None:
    """Let a person in, or change the role; live sessions may do at once what the new role may."""
    with connect(context) as client:
        member = client.people.set_member(subject, role, name)
    if as_json:
        print_json(member)
    else:
        say(f"{subject} is {role}")


@app.command()
def remove(context: typer.Context, subject: Subject) -> None:
    """End a membership; the person's sessions end with it. API keys that the person made stay."""
    with connect(context) as client:
        client.people.remove_member(subject)
    say(f"{subject} is no member any more")
