"""Push, deploy and call models on Moorage.

>>> from moorage_sdk import push, deploy
>>> version = push(model, name="digits", example=X[:8])
>>> endpoint = deploy(version, gpu=0.5)
>>> endpoint.url, endpoint.predict(X[:2])

Names are imported when they are first used, so that the `moorage` command starts quickly.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moorage_sdk.answer import Answer
    from moorage_sdk.answers import Version
    from moorage_sdk.async_client import AsyncClient
    from moorage_sdk.client import Client
    from moorage_sdk.deploying import Endpoint
    from moorage_sdk.errors import MoorageApiError, SdkError
    from moorage_sdk.notebook import deploy, infer, push

__all__ = [
    "Answer",
    "AsyncClient",
    "Client",
    "Endpoint",
    "MoorageApiError",
    "SdkError",
    "Version",
    "deploy",
    "infer",
    "push",
]

_HOMES = {
    "Answer": "answer",
    "AsyncClient": "async_client",
    "Client": "client",
    "Endpoint": "deploying",
    "MoorageApiError": "errors",
    "SdkError": "errors",
    "Version": "answers",
    "deploy": "notebook",
    "infer": "notebook",
    "push": "notebook",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"moorage_sdk.{_HOMES[name]}"), name)
