"""What every command shares: the global options, the client made from them, and option types."""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from moorage_sdk.errors import SdkError

if TYPE_CHECKING:
    from moorage_sdk.client import Client
    from moorage_sdk.spec import Profile

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


def parse_pairs(pairs: list[str], form: str) -> dict[str, str]:
    """`["zone=a"]` -> `{"zone": "a"}`.

    Raises:
        SdkError: a pair of another form, or one name twice.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals and value) or name in found:
            raise SdkError(f"{pair!r} is not {form}, or its name stands twice")
        found[name] = value
    return found


def parse_profiles(pairs: list[str]) -> "dict[str, Profile]":
    """`["H100=0.2,4Gi"]` -> `{"H100": {"gpu": "0.2", "gpu_memory": "4Gi"}}`.

    Raises:
        SdkError: a pair of another form.
    """
    found: dict[str, Profile] = {}
    for model, taken in parse_pairs(pairs, "MODEL=GPU or MODEL=GPU,MEMORY such as H100=0.2,4Gi").items():
        gpu, comma, memory = taken.partition(",")
        found[model] = {"gpu": gpu, "gpu_memory": memory} if comma else {"gpu": gpu}
    return found


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
