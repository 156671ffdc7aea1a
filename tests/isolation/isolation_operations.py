"""What a tenant may ask of the three doors, with its own names or with another's."""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from isolation_platform import BODY

REGISTRY, ROUTER, FEATURES = "registry", "router", "features"
_DEPLOYMENT = "/v1/deployments/{model}"


@dataclass(frozen=True)
class Operation:
    """A request with places for names; `json` is a template of the body."""

    door: str
    method: str
    path: str
    json: str = ""


def _of(door: str, text: str, body: Any = None) -> Operation:
    method, path = text.split(" ")
    return Operation(door, method, path, "" if body is None else json.dumps(body))


_SIGNATURE = {
    "inputs": [{"name": "{word}-x", "datatype": "FP32", "shape": [-1, 4]}],
    "outputs": [{"name": "{word}-y", "datatype": "INT64", "shape": [-1]}],
}
_VERSION = {
    "artifact_digest": "{digest}", "format": "onnx", "signature": _SIGNATURE, "libraries": {"{word}-lib": "{word}"},
}  # fmt: skip
_ARMS = {"arms": [{"version": 1, "weight": 100}]}

OPERATIONS = [
    *(
        _of(REGISTRY, f"GET {path}")
        for path in (
            "/v1/whoami", "/v1/tenants/{tenant}", "/v1/tenants/{tenant}/export", "/v1/limits", "/v1/keys",
            "/v1/keys/{kid}", "/v1/models", "/v1/models/{model}", "/v1/models/{model}/versions",
            "/v1/models/{model}/versions/1",
            "/v1/deployments", _DEPLOYMENT, f"{_DEPLOYMENT}/traffic", f"{_DEPLOYMENT}/shadows", f"{_DEPLOYMENT}/status",
            f"{_DEPLOYMENT}/logs", f"{_DEPLOYMENT}/feedback", f"{_DEPLOYMENT}/rollouts",
            f"{_DEPLOYMENT}/rollouts/current", f"{_DEPLOYMENT}/rollouts/current/explain", "/v1/rings",
            "/v1/rings/{ring}", "/v1/usage?by=model,version,key", "/v1/audit?limit=20", "/v1/metrics",
            "/v1/events?follow=false",
        )
    ),
    _of(REGISTRY, "POST /v1/keys", {"scopes": ["infer:{model}"], "name": "{word} key"}),
    _of(REGISTRY, "HEAD /v1/artifacts/{digest}"),
    _of(REGISTRY, "POST /v1/models/{model}/versions", _VERSION),
    _of(REGISTRY, f"PUT {_DEPLOYMENT}", {"versions": [{"version": 1}]}),
    _of(REGISTRY, f"PUT {_DEPLOYMENT}?dry_run=true", {"versions": [{"version": 1}]}),
    _of(REGISTRY, f"PUT {_DEPLOYMENT}/traffic", _ARMS),
    _of(REGISTRY, f"DELETE {_DEPLOYMENT}"),
    _of(REGISTRY, f"POST {_DEPLOYMENT}/rollouts", {"to": 1}),
    _of(REGISTRY, f"POST {_DEPLOYMENT}/rollouts/current/abort"),
    _of(REGISTRY, "PUT /v1/rings/{ring}", {"header": "x-{word}", "values": ["{word}"]}),
    _of(REGISTRY, "DELETE /v1/rings/{ring}"),
    *(
        _of(ROUTER, f"GET {prefix}{path}")
        for prefix in ("", "/t/{tenant}")
        for path in ("/v2/models", "/v2/models/stats", "/v2/models/{model}", "/v2/models/{model}/ready",
                     "/v2/models/{model}/stats")
    ),
    *(Operation(ROUTER, "POST", f"{prefix}/v2/models/{{model}}/infer", BODY) for prefix in ("", "/t/{tenant}")),
    _of(ROUTER, "POST /v2/repository/index", {}),
    _of(ROUTER, "POST /v2/models/{model}/feedback", {"id": "{request}", "label": "{word}"}),
    _of(FEATURES, "GET /v1/features/services"),
    _of(FEATURES, "GET /v1/features/services/{word}"),
    _of(FEATURES, "POST /v1/features/online", {"service": "{word}", "entities": {"{word}": [1]}}),
]  # fmt: skip


@dataclass
class Names:
    """What one tenant calls its things, each with its `word` in it; `ids` are what the platform made for it."""

    word: str
    kid: str = ""
    request: str = "none"
    ids: set[str] = field(default_factory=set)

    @property
    def tenant(self) -> str:
        return f"{self.word}-tenant"

    def content(self, number: int) -> bytes:
        return f"{self.word} weights {number}".encode()

    def digest(self, number: int) -> str:
        return f"sha256:{hashlib.sha256(self.content(number)).hexdigest()}"

    def places(self, number: int) -> dict[str, str]:
        """What stands for each place of an operation."""
        return {
            "tenant": self.tenant, "model": f"{self.word}-model-{number}", "ring": f"{self.word}-ring-{number}",
            "kid": self.kid, "digest": self.digest(number), "word": self.word, "request": self.request,
        }  # fmt: skip

    def marks(self) -> set[str]:
        """Strings that nobody else may ever hear."""
        digests = {self.digest(number).removeprefix("sha256:") for number in range(3)}
        return {self.word, *digests, *self.ids}


def filled(template: str, places: dict[str, str]) -> str:
    for name, value in places.items():
        template = template.replace(f"{{{name}}}", value)
    return template
