"""`push`, `deploy` and `infer` without a client in hand: settings from the environment or the profile."""

import sys
from functools import lru_cache
from typing import Any, Unpack

from moorage_sdk.answers import Version
from moorage_sdk.client import Client
from moorage_sdk.deploying import Endpoint
from moorage_sdk.profiles import Profile, resolve
from moorage_sdk.protocol import InferOptions


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


@lru_cache(maxsize=8)
def _client_for(profile: Profile, *, is_watched: bool) -> Client:
    if is_watched:
        return Client(profile.registry, profile.router, profile.api_key, progress=_say)
    return Client(profile.registry, profile.router, profile.api_key)


def default_client() -> Client:
    """The client of `MOORAGE_*` or the profile; it tells of its steps where someone watches (notebook, terminal)."""
    is_watched = "ipykernel" in sys.modules or sys.stdout.isatty()
    return _client_for(resolve(), is_watched=is_watched)


def push(model: Any, *, name: str, example: Any = None, **options: Any) -> Version:
    """As `Client.push`: upload a model as a new version, with what it answers to `example`."""
    return default_client().push(model, name=name, example=example, **options)


def deploy(model: str | Version, **options: Any) -> Endpoint:
    """As `Client.deploy`: run a version; the endpoint has a URL, `infer` and `predict`."""
    return default_client().deploy(model, **options)


def infer(name: str, inputs: Any, **options: Unpack[InferOptions]) -> Any:
    """As `Client.infer`: ask a deployed model."""
    return default_client().infer(name, inputs, **options)
