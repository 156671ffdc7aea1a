"""`login` and `whoami`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from moorage_sdk.cli.context import AsJson, connect, options_of
from moorage_sdk.cli.output import print_line, print_rows
from moorage_sdk.errors import NotConfigured


def _read_local(state: Path) -> dict[str, str]:
    path = state / "local.json" if state.is_dir() else state
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise NotConfigured(
            f"{path} cannot be read; start the local platform first: moorage up --state {state}"
        ) from None
    return {key: str(found[key]) for key in ("registry", "router", "api_key")}


def login(
    context: typer.Context,
    registry: Annotated[str | None, typer.Option(help="The registry's address.")] = None,
    router: Annotated[str | None, typer.Option(help="The router's address.")] = None,
    api_key: Annotated[str | None, typer.Option(help="The API key; asked for when left out.")] = None,
    local: Annotated[
        Path | None, typer.Option(help="State directory of a platform started by `moorage up`.", metavar="DIR")
    ] = None,
) -> None:
    """Check an API key and keep it, with the addresses, in the profile file (mode 0600)."""
    from moorage_sdk.client import Client  # noqa: PLC0415 - keeps --help quick
    from moorage_sdk.profiles import Profile, save_profile  # noqa: PLC0415

    given = options_of(context)
    if local is not None:
        profile = Profile(**_read_local(local))
    else:
        profile = Profile(
            registry=(registry or given.registry or typer.prompt("Registry address")).rstrip("/"),
            router=(router or given.router or typer.prompt("Router address")).rstrip("/"),
            api_key=api_key or typer.prompt("API key", hide_input=True),
        )
    with Client.of(profile) as client:
        who = client.registry.whoami()
    path = save_profile(profile, given.profile)
    print_line(f"logged in as tenant {who['tenant']} with key {who['kid']}; kept in {path}")


def whoami(context: typer.Context, as_json: AsJson = False) -> None:
    """Show the tenant and the scopes of the key in use."""
    with connect(context) as client:
        who = client.registry.whoami()
    print_rows([who], ["tenant", "kid", "scopes"], as_json=as_json)
