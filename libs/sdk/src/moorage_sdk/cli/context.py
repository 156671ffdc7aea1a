"""What every command shares: the global options, the client made from them, and option types."""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from moorage_sdk.errors import SdkError

if TYPE_CHECKING:
    from moorage_sdk.client import Client

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ModelName = Annotated[str, typer.Argument(help="The model's name.", metavar="MODEL")]


@dataclass(frozen=True, slots=True)
class Options:
    """The global options."""

    profile: str | None = None
    registry: str | None = None
    router: str | None = None
    tenant: str | None = None


def say(line: str) -> None:
    """Progress, apart from the command's output."""
    sys.stderr.write(f"{line}\n")


def options_of(context: typer.Context) -> Options:
    """The global options that the command was called with."""
    found = context.find_object(Options)
    return found if found is not None else Options()


def connect(context: typer.Context) -> "Client":
    """A client by the global options, the environment and the profile."""
    from moorage_sdk.client import Client  # noqa: PLC0415 - keeps --help quick

    given = options_of(context)
    return Client(
        registry=given.registry, router=given.router, profile=given.profile, tenant=given.tenant, progress=say
    )


def parse_weights(pairs: list[str]) -> dict[int, float]:
    """`["1=90", "2=10"]` -> `{1: 90.0, 2: 10.0}`.

    Raises:
        SdkError: a pair of another form.
    """
    weights: dict[int, float] = {}
    for pair in pairs:
        version, _, percent = pair.partition("=")
        try:
            weights[int(version)] = float(percent)
        except ValueError:
            raise SdkError(f"{pair!r} is not VERSION=PERCENT; write for instance 1=90 2=10") from None
    return weights
