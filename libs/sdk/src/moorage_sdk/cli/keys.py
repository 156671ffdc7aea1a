"""`keys list | show | create | change | rotate | revoke | report-leaked`."""

import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from moorage_sdk.cli.context import AsJson, connect, options_of, say
from moorage_sdk.cli.output import print_json, print_line, print_rows
from moorage_sdk.errors import NotConfigured, SdkError

app = typer.Typer(help="API keys of the tenant.", no_args_is_help=True)

Kid = Annotated[str, typer.Argument(help="The key's id, the 12 letters after mrg_live_.")]
Networks = Annotated[list[str] | None, typer.Option("--cidr", help="Network it may be used from, once a network.")]
PerSecond = Annotated[float | None, typer.Option("--rate", help="Requests a second of this key, with --burst.")]
Burst = Annotated[int | None, typer.Option(help="Requests at once of this key, with --rate.")]
ExpiresIn = Annotated[float | None, typer.Option(help="Seconds until it expires.")]


@app.command("list")
def list_keys(context: typer.Context, as_json: AsJson = False) -> None:
    """List the keys; a key's text is shown only when it is made."""
    with connect(context) as client:
        rows = client.keys.all()
    columns = ["kid", "name", "scopes", "cidrs", "created_at", "last_used_at", "expires_at", "revoked_at"]
    print_rows(rows, columns, as_json=as_json)


@app.command()
def show(context: typer.Context, kid: Kid, as_json: AsJson = False) -> None:
    """Show all of a key but its text."""
    with connect(context) as client:
        found = client.keys.get(kid)
    if as_json:
        print_json(found)
        return
    print_rows([{"field": name, "value": value} for name, value in found.items()], ["field", "value"])


@app.command()
def create(
    context: typer.Context,
    scopes: Annotated[
        list[str], typer.Argument(help="For instance infer:digits, 'infer:*', models:write, deploy:write, usage:read.")
    ],
    *,
    name: Annotated[str, typer.Option(help="What people call it.")] = "",
    test: Annotated[bool, typer.Option("--test", help="Make a key of the test environment.")] = False,
    cidr: Networks = None,
    rate: PerSecond = None,
    burst: Burst = None,
    expires_in_s: ExpiresIn = None,
    as_json: AsJson = False,
) -> None:
    """Make a key with SCOPES, which may do no more than the key in use. Its text is printed this once."""
    with connect(context) as client:
        made = client.keys.create(
            scopes, name=name, environment="test" if test else "live", cidrs=cidr or (),
            rate=_rate(rate, burst), expires_in_s=expires_in_s,
        )  # fmt: skip
    _print_made(made, as_json=as_json)


@app.command()
def change(
    context: typer.Context,
    kid: Kid,
    *,
    name: Annotated[str | None, typer.Option(help="What people call it.")] = None,
    cidr: Networks = None,
    anywhere: Annotated[bool, typer.Option("--anywhere", help="Let it be used from every network.")] = False,
    rate: PerSecond = None,
    burst: Burst = None,
    no_rate: Annotated[bool, typer.Option("--no-rate", help="Leave it the tenant's rate alone.")] = False,
    expires_in_s: Annotated[float | None, typer.Option(help="Seconds until it expires: sooner than now set.")] = None,
    as_json: AsJson = False,
) -> None:
    """Change what is given of a key; the rest stays."""
    wanted: dict[str, Any] = {"name": name, "cidrs": cidr, "rate": _rate(rate, burst), "expires_in_s": expires_in_s}
    wanted = {field: value for field, value in wanted.items() if value is not None}
    if anywhere:
        wanted["cidrs"] = []
    if no_rate:
        wanted["rate"] = None
    with connect(context) as client:
        changed = client.keys.change(kid, **wanted)
    if as_json:
        print_json(changed)
        return
    say(f"key {kid} is changed; routers hold it so within a second")


@app.command()
def rotate(
    context: typer.Context,
    kid: Kid,
    overlap_s: Annotated[float, typer.Option(help="Seconds that the old key goes on being good.")] = 86_400.0,
    as_json: AsJson = False,
) -> None:
    """Make a key that may do the same, and have the old one end after the overlap. The text is printed this once."""
    with connect(context) as client:
        made = client.keys.rotate(kid, overlap_s=overlap_s)
    if not as_json:
        say(f"key {kid} goes on being good for {overlap_s:g} s")
    _print_made(made, as_json=as_json)


@app.command()
def revoke(context: typer.Context, kid: Kid) -> None:
    """Revoke a key; routers refuse it within a second."""
    with connect(context) as client:
        client.keys.revoke(kid)
    say(f"key {kid} is revoked")


@app.command("report-leaked")
def report_leaked(context: typer.Context) -> None:
    """Report a key that was seen where it should not be: if there is such a key, it is revoked at once.

    Its text is read from standard input, so that it stays out of the shell's history. Needs no key of one's own.
    """
    from moorage_sdk.keys import report_leaked_key  # noqa: PLC0415 - keeps --help quick
    from moorage_sdk.profiles import resolve  # noqa: PLC0415

    given = options_of(context)
    registry = resolve(given.registry, profile=given.profile).registry
    if not registry:
        raise NotConfigured("the registry's address is not known; name it with --registry")
    text = typer.prompt("Key", hide_input=True) if sys.stdin.isatty() else sys.stdin.read()
    if not text.strip():
        raise SdkError("no key was given; write its text to standard input")
    report_leaked_key(registry, text.strip())
    say("reported; if there is such a key, it is revoked")


def _rate(per_second: float | None, burst: int | None) -> dict[str, float] | None:
    """Raises SdkError where only one of the two is given."""
    if per_second is None and burst is None:
        return None
    if per_second is None or burst is None:
        raise SdkError("a key's rate is given by --rate and --burst together")
    return {"requests_per_s": per_second, "burst": burst}


def _print_made(made: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(made)
        return
    say(f"key {made['kid']}, shown this once:")
    print_line(str(made["key"]))
