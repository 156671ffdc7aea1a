"""`login`, `logout` and `whoami`."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moorage_sdk.cli.context import AsJson, connect, options_of, say
from moorage_sdk.cli.output import harmless, print_line, print_rows
from moorage_sdk.errors import MoorageApiError, NotConfigured

if TYPE_CHECKING:
    from moorage_sdk.oidc import Prompt
    from moorage_sdk.profiles import Profile
    from moorage_sdk.spec import Json


def _read_local(state: Path) -> dict[str, str]:
    path = state / "local.json" if state.is_dir() else state
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise NotConfigured(
            f"{path} cannot be read; start the local platform first: moorage up --state {state}"
        ) from None
    return {key: str(found[key]) for key in ("registry", "router", "api_key")}


def login(  # noqa: PLR0917 - options of a command, given by name
    context: typer.Context,
    registry: Annotated[str | None, typer.Option(help="The registry's address.")] = None,
    router: Annotated[str | None, typer.Option(help="The router's address.")] = None,
    api_key: Annotated[str | None, typer.Option(help="The API key; asked for when left out.")] = None,
    local: Annotated[
        Path | None, typer.Option(help="State directory of a platform started by `moorage up`.", metavar="DIR")
    ] = None,
    oidc: Annotated[bool, typer.Option("--oidc", help="Sign in as a person, at the identity provider.")] = False,
    tenant: Annotated[str | None, typer.Option(help="Tenant to sign in to, for members of several.")] = None,
) -> None:
    """Check an API key, or sign in, and keep key and addresses in the profile file (mode 0600)."""
    from moorage_sdk.client import Client  # noqa: PLC0415 - keeps --help quick
    from moorage_sdk.profiles import Profile, save_profile  # noqa: PLC0415

    given = options_of(context)
    if oidc:
        profile, session = _sign_in(registry or given.registry, router or given.router, tenant or given.tenant)
        path = save_profile(profile, given.profile)
        print_line(
            f"{session['name'] or session['subject']} is signed in to tenant {session['tenant']} as "
            f"{session['role']} until {session['expires_at']}; kept in {path}"
        )
        return
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


def _sign_in(registry: str | None, router: str | None, tenant: str | None) -> "tuple[Profile, Json]":
    """A profile with a session's key, and the session. Raises SdkError."""
    import httpx  # noqa: PLC0415 - keeps --help quick

    from moorage_sdk.oidc import device_token, discover  # noqa: PLC0415
    from moorage_sdk.people import SigningIn  # noqa: PLC0415
    from moorage_sdk.profiles import Profile  # noqa: PLC0415

    address = (registry or typer.prompt("Registry address")).rstrip("/")
    with SigningIn(address) as door:
        identity = door.identity()
        if identity["identity"] == "none":
            raise NotConfigured("people do not sign in on this platform; use an API key: moorage login")
        with httpx.Client(timeout=20.0) as http:
            provider = discover(http, identity["issuer"], identity["client_id"], identity["token"])
            token = device_token(http, provider, _show)
        session = door.start_session(token, tenant)
    reached = router or identity["router"] or typer.prompt("Router address")
    return Profile(registry=address, router=str(reached).rstrip("/"), api_key=str(session["key"])), session


def _show(prompt: "Prompt") -> None:
    say(harmless(f"sign in at {prompt.whole_url}\n(or at {prompt.url} with the code {prompt.code}); waiting ..."))


def logout(context: typer.Context) -> None:
    """End the session, and forget the key of the profile. An API key is forgotten and stays good."""
    from moorage_sdk.client import Client  # noqa: PLC0415 - keeps --help quick
    from moorage_sdk.profiles import load_profile, save_profile  # noqa: PLC0415

    given = options_of(context)
    profile = load_profile(given.profile)
    if not profile.api_key:
        say("nobody is logged in")
        return
    told = "the session has ended"
    try:
        with Client.of(profile) as client:
            client.people.sign_out()
    except MoorageApiError as error:
        if error.code == "not_a_session":
            told = "the API key is forgotten here and stays good; to end it: moorage keys revoke"
        elif error.status != 401:
            raise
    save_profile(replace(profile, api_key=""), given.profile)
    say(told)


def whoami(context: typer.Context, as_json: AsJson = False) -> None:
    """Show the tenant and the scopes of the key in use."""
    with connect(context) as client:
        who = client.registry.whoami()
    print_rows([who], ["tenant", "kid", "subject", "scopes"], as_json=as_json)
