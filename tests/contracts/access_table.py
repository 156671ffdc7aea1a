"""What was decided about every operation: who may use it, and what another tenant's thing looks like through it.

The only place of the tests that says so. The operations themselves come from the services' OpenAPI documents; one that
has no row here fails `test_access_matrix.py`, and so does a row that no document has.
"""

from dataclasses import dataclass
from typing import Any, Literal

TENSOR = {"name": "x", "datatype": "FP32", "shape": [-1]}
VERSION = {
    "artifact_digest": "sha256:" + "0" * 64,
    "format": "onnx",
    "signature": {"inputs": [TENSOR], "outputs": [TENSOR]},
}
ADMIN = "platform:admin"
INFER, LABEL = "infer:{model}", "infer:{model} or feedback:{model}"


@dataclass(frozen=True)
class Row:
    """An operation.

    Attributes:
        rule: as the document says it (`x-moorage-rule`).
        foreign: what a caller that the rule lets in is answered where the path names another tenant's thing: `hidden`
            is 404, `own` says that the name is looked up among the caller's own and may be new there.
        body: JSON that the operation takes.
        query: of the URL, where the operation needs one or is harmless with it alone.
        ends_session: whether it is the caller's own session that ends.
    """

    rule: str
    foreign: Literal["hidden", "own"] = "hidden"
    body: Any = None
    query: str = ""
    ends_session: bool = False


_DEPLOYMENT = "/v1/deployments/{model}"
_ROLLOUT = "/v1/deployments/{model}/rollouts/{rollout}"
_MODEL = "/v2/models/{model}"
_VERSION = "/v2/models/{model}/versions/{version}"

REGISTRY: dict[str, Row] = {
    "GET /openapi.json": Row("anyone"),
    "POST /v1/tenants": Row(ADMIN, body={}),
    "GET /v1/tenants": Row(ADMIN),
    "GET /v1/tenants/{tenant}": Row("any key"),
    "DELETE /v1/tenants/{tenant}": Row(ADMIN, query="?confirm=absent"),
    "GET /v1/tenants/{tenant}/export": Row("keys:admin"),
    "PUT /v1/tenants/{tenant}/limits": Row(ADMIN, body={}),
    "POST /v1/tenants/{tenant}/suspend": Row(ADMIN),
    "POST /v1/tenants/{tenant}/resume": Row(ADMIN),
    "GET /v1/limits": Row("any key"),
    "GET /v1/whoami": Row("any key"),
    "POST /v1/keys": Row("keys:admin", body={"scopes": ["usage:read"]}),
    "GET /v1/keys": Row("keys:admin"),
    "GET /v1/keys/{kid}": Row("keys:admin"),
    "PATCH /v1/keys/{kid}": Row("keys:admin", body={"name": "changed"}),
    "POST /v1/keys/{kid}/rotate": Row("keys:admin", body={}),
    "DELETE /v1/keys/{kid}": Row("keys:admin"),
    "POST /v1/keys/leaked": Row("anyone", body={}),
    "GET /v1/internal/keys": Row("internal token"),
    "GET /v1/identity": Row("anyone"),
    "POST /v1/sessions": Row("anyone", body={}),
    "DELETE /v1/sessions/current": Row("any key", ends_session=True),
    "GET /v1/members": Row("keys:admin"),
    "GET /v1/members/{subject}": Row("keys:admin", foreign="own"),
    "PUT /v1/members/{subject}": Row("keys:admin", foreign="own", body={"role": "viewer"}),
    "DELETE /v1/members/{subject}": Row("keys:admin", foreign="own"),
    "PUT /v1/artifacts/{digest}": Row("models:write", foreign="own"),
    "HEAD /v1/artifacts/{digest}": Row("models:write"),
    "GET /v1/artifacts/{tenant}/{digest}": Row("signed URL", query="?expires=99999999999&signature=00"),
    "POST /v1/models/{model}/versions": Row("models:write", foreign="own", body=VERSION),
    "GET /v1/models": Row("any key"),
    "GET /v1/models/{model}": Row("any key"),
    "GET /v1/models/{model}/versions": Row("any key"),
    "GET /v1/models/{model}/versions/{number}": Row("any key"),
    "GET /v1/deployments": Row("any key"),
    f"PUT {_DEPLOYMENT}": Row("deploy:write", body={"versions": [{"version": 1}]}),
    f"GET {_DEPLOYMENT}": Row("any key"),
    f"DELETE {_DEPLOYMENT}": Row("deploy:write"),
    f"GET {_DEPLOYMENT}/traffic": Row("any key"),
    f"PUT {_DEPLOYMENT}/traffic": Row("deploy:write", body={"arms": [{"version": 1, "weight": 100}]}),
    f"GET {_DEPLOYMENT}/shadows": Row("any key"),
    f"GET {_DEPLOYMENT}/status": Row("any key"),
    f"GET {_DEPLOYMENT}/logs": Row("logs:read"),
    f"GET {_DEPLOYMENT}/explain": Row("any key"),
    f"GET {_DEPLOYMENT}/feedback": Row("any key"),
    f"POST {_DEPLOYMENT}/rollouts": Row("deploy:write", body={"to": 1}),
    f"GET {_DEPLOYMENT}/rollouts": Row("any key"),
    f"GET {_ROLLOUT}": Row("any key"),
    **{f"POST {_ROLLOUT}/{verb}": Row("deploy:write") for verb in ("pause", "resume", "promote", "abort")},
    **{f"GET {_ROLLOUT}/{what}": Row("any key") for what in ("verdicts", "explain", "log")},
    f"POST {_ROLLOUT}/replay": Row("any key", body={}),
    "GET /v1/rings": Row("any key"),
    "GET /v1/rings/{name}": Row("any key"),
    "PUT /v1/rings/{name}": Row("deploy:write", foreign="own", body={"kids": []}),
    "DELETE /v1/rings/{name}": Row("deploy:write"),
    "GET /v1/gpus": Row("any key"),
    "GET /v1/quota": Row("any key"),
    "GET /v1/nodes": Row(ADMIN),
    "PUT /v1/nodes/{node}/drain": Row(ADMIN),
    "DELETE /v1/nodes/{node}/drain": Row(ADMIN),
    "GET /v1/cluster/state": Row(ADMIN),
    "POST /v1/cluster/defragment": Row(ADMIN, query="?dry_run=true"),
    "GET /v1/usage": Row("usage:read"),
    "GET /v1/events": Row("events:read", query="?follow=false"),
    "GET /v1/audit": Row("keys:admin"),
    "GET /v1/metrics": Row("metrics:read"),
}

_ROUTER: dict[str, Row] = {
    "GET /v2": Row("anyone"),
    "GET /v2/health/live": Row("anyone"),
    "GET /v2/health/ready": Row("anyone"),
    "GET /v2/models": Row("any key"),
    "GET /v2/models/stats": Row("any key"),
    "POST /v2/repository/index": Row("any key", body={}),
    **{f"GET {base}{path}": Row(INFER) for base in (_MODEL, _VERSION) for path in ("", "/ready", "/stats")},
    **{f"POST {base}/infer": Row(INFER, body={}) for base in (_MODEL, _VERSION)},
    f"POST {_MODEL}/feedback": Row(LABEL, foreign="own", body={"id": "none", "label": 1}),
}
ROUTER: dict[str, Row] = {
    "GET /openapi.json": Row("anyone"),
    **_ROUTER,
    **{
        operation.replace(" ", " /t/{tenant}"): Row(row.rule, "hidden" if row.rule != "anyone" else "own", row.body)
        for operation, row in _ROUTER.items()
    },
}

FEATURES: dict[str, Row] = {
    "GET /openapi.json": Row("anyone"),
    "DELETE /v1/features": Row("internal"),
    "PUT /v1/features/definitions": Row("features:write"),
    "GET /v1/features/services": Row("features:read"),
    "GET /v1/features/services/{name}": Row("features:read"),
    "POST /v1/features/online": Row("features:read", body={"service": "svc", "entities": {"shop_id": [1]}}),
}

TABLES = {"registry": REGISTRY, "router": ROUTER, "features": FEATURES}
