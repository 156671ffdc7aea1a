"""Who may do what: every route has a rule, and tenants see only their own."""

import secrets

import pytest
from fastapi import APIRouter

from moorage_common import api_keys
from moorage_common.access import check_rules
from moorage_registry.app import create_app
from moorage_registry.metrics import Metrics
from moorage_registry.settings import Settings
from moorage_registry.testing import Caller, Platform

EXPECTED_RULES = {
    "GET /openapi.json": "anyone",
    "POST /v1/tenants": "platform:admin",
    "GET /v1/tenants": "platform:admin",
    "GET /v1/limits": "any key",
    "GET /v1/tenants/{tenant}": "any key",
    "PUT /v1/tenants/{tenant}/limits": "platform:admin",
    "POST /v1/tenants/{tenant}/suspend": "platform:admin",
    "POST /v1/tenants/{tenant}/resume": "platform:admin",
    "DELETE /v1/tenants/{tenant}": "platform:admin",
    "GET /v1/tenants/{tenant}/export": "keys:admin",
    "GET /v1/whoami": "any key",
    "POST /v1/keys": "keys:admin",
    "GET /v1/keys": "keys:admin",
    "POST /v1/keys/leaked": "anyone",
    "GET /v1/keys/{kid}": "keys:admin",
    "PATCH /v1/keys/{kid}": "keys:admin",
    "POST /v1/keys/{kid}/rotate": "keys:admin",
    "DELETE /v1/keys/{kid}": "keys:admin",
    "GET /v1/identity": "anyone",
    "POST /v1/sessions": "anyone",
    "DELETE /v1/sessions/current": "any key",
    "GET /v1/members": "keys:admin",
    "GET /v1/members/{subject}": "keys:admin",
    "PUT /v1/members/{subject}": "keys:admin",
    "DELETE /v1/members/{subject}": "keys:admin",
    "PUT /v1/artifacts/{digest}": "models:write",
    "HEAD /v1/artifacts/{digest}": "models:write",
    "GET /v1/artifacts/{tenant}/{digest}": "signed URL",
    "POST /v1/models/{model}/versions": "models:write",
    "GET /v1/models": "any key",
    "GET /v1/models/{model}": "any key",
    "GET /v1/models/{model}/versions": "any key",
    "GET /v1/models/{model}/versions/{number}": "any key",
    "PUT /v1/deployments/{model}": "deploy:write",
    "GET /v1/deployments": "any key",
    "GET /v1/deployments/{model}": "any key",
    "DELETE /v1/deployments/{model}": "deploy:write",
    "GET /v1/deployments/{model}/traffic": "any key",
    "PUT /v1/deployments/{model}/traffic": "deploy:write",
    "GET /v1/deployments/{model}/shadows": "any key",
    "GET /v1/deployments/{model}/status": "any key",
    "GET /v1/deployments/{model}/logs": "logs:read",
    "GET /v1/deployments/{model}/explain": "any key",
    "GET /v1/deployments/{model}/feedback": "any key",
    "GET /v1/rings": "any key",
    "GET /v1/rings/{name}": "any key",
    "PUT /v1/rings/{name}": "deploy:write",
    "DELETE /v1/rings/{name}": "deploy:write",
    "POST /v1/deployments/{model}/rollouts": "deploy:write",
    "GET /v1/deployments/{model}/rollouts": "any key",
    "GET /v1/deployments/{model}/rollouts/{rollout}": "any key",
    "POST /v1/deployments/{model}/rollouts/{rollout}/pause": "deploy:write",
    "POST /v1/deployments/{model}/rollouts/{rollout}/resume": "deploy:write",
    "POST /v1/deployments/{model}/rollouts/{rollout}/promote": "deploy:write",
    "POST /v1/deployments/{model}/rollouts/{rollout}/abort": "deploy:write",
    "GET /v1/deployments/{model}/rollouts/{rollout}/verdicts": "any key",
    "GET /v1/deployments/{model}/rollouts/{rollout}/explain": "any key",
    "GET /v1/deployments/{model}/rollouts/{rollout}/log": "any key",
    "POST /v1/deployments/{model}/rollouts/{rollout}/replay": "any key",
    "GET /v1/gpus": "any key",
    "GET /v1/quota": "any key",
    "GET /v1/nodes": "platform:admin",
    "PUT /v1/nodes/{node}/drain": "platform:admin",
    "DELETE /v1/nodes/{node}/drain": "platform:admin",
    "GET /v1/cluster/state": "platform:admin",
    "POST /v1/cluster/defragment": "platform:admin",
    "GET /v1/usage": "usage:read",
    "GET /v1/events": "events:read",
    "GET /v1/audit": "keys:admin",
    "GET /v1/metrics": "metrics:read",
    "GET /v1/internal/keys": "internal token",
}


def test_every_route_has_exactly_the_rule_that_was_decided(settings: Settings) -> None:
    found = check_rules(create_app(settings, Metrics()).routes)
    assert {f"{method} {path}": rule for (method, path), rule in found.items()} == EXPECTED_RULES


def test_a_route_without_a_rule_stops_the_app() -> None:
    router = APIRouter()

    @router.get("/open")
    async def unguarded() -> None: ...

    with pytest.raises(RuntimeError, match="access rule"):
        check_rules(router.routes)


def _concrete(route: str) -> tuple[str, str]:
    method, path = route.split(" ")
    return method, path.format(
        tenant="acme",
        kid="0" * 12,
        digest="sha256:" + "0" * 64,
        model="digits",
        number=1,
        node="n1",
        name="beta",
        subject="ada",
        rollout="current",
    )


async def test_no_route_answers_without_a_key(platform: Platform) -> None:
    for route, rule in EXPECTED_RULES.items():
        if rule == "anyone":
            continue
        method, path = _concrete(route)
        query = "?expires=99999999999&signature=00" if rule == "signed URL" else ""
        answer = await platform.operator.http.request(method, path + query)
        assert answer.status_code == (403 if rule == "signed URL" else 401), route
        if rule != "signed URL":
            body = {"json": {}} if method in ("POST", "PUT") else {}
            wrong = {"authorization": f"Bearer {api_keys.mint().text}"}
            answer = await platform.operator.http.request(method, path, headers=wrong, **body)
            assert answer.status_code == 401, route


async def test_a_key_without_the_scope_is_refused_with_what_it_lacks(platform: Platform, demo: Caller) -> None:
    weak = await demo.with_key("infer:*")
    for route, rule in EXPECTED_RULES.items():
        if rule in ("any key", "anyone", "signed URL", "internal token"):
            continue
        method, path = _concrete(route)
        answer = await weak.call(method, path)
        assert answer.status_code == 403, route
        if method != "HEAD":
            assert answer.json()["code"] == "scope_missing"
            assert rule in answer.json()["error"]


async def test_another_tenants_things_are_not_found_on_every_route(platform: Platform, demo: Caller) -> None:
    await demo.push("digits", b"weights")
    spec = {"versions": [{"version": 1}]}
    await demo.ok("PUT", "/v1/deployments/digits", json=spec)
    kid = (await demo.ok("GET", "/v1/whoami"))["kid"]
    digest = await demo.upload(b"weights")
    await demo.ok("PUT", "/v1/rings/beta", json={"kids": [kid]})
    stranger = await platform.tenant()

    routes = [
        ("GET", f"/v1/tenants/{demo.tenant}", None),
        ("GET", f"/v1/keys/{kid}", None),
        ("PATCH", f"/v1/keys/{kid}", {"name": "mine"}),
        ("POST", f"/v1/keys/{kid}/rotate", {}),
        ("DELETE", f"/v1/keys/{kid}", None),
        ("HEAD", f"/v1/artifacts/{digest}", None),
        ("GET", "/v1/models/digits", None),
        ("GET", "/v1/models/digits/versions", None),
        ("GET", "/v1/models/digits/versions/1", None),
        ("PUT", "/v1/deployments/digits", spec),
        ("PUT", "/v1/deployments/digits?dry_run=true", spec),
        ("GET", "/v1/deployments/digits", None),
        ("DELETE", "/v1/deployments/digits", None),
        ("GET", "/v1/deployments/digits/traffic", None),
        ("PUT", "/v1/deployments/digits/traffic", {"arms": [{"version": 1, "weight": 100}]}),
        ("GET", "/v1/deployments/digits/shadows", None),
        ("GET", "/v1/deployments/digits/status", None),
        ("GET", "/v1/deployments/digits/logs", None),
        ("GET", "/v1/deployments/digits/explain", None),
        ("GET", "/v1/deployments/digits/feedback", None),
        ("POST", "/v1/deployments/digits/rollouts", {"to": 1}),
        ("GET", "/v1/deployments/digits/rollouts", None),
        ("GET", "/v1/deployments/digits/rollouts/current", None),
        ("POST", "/v1/deployments/digits/rollouts/current/abort", None),
        ("POST", "/v1/deployments/digits/rollouts/current/replay", {}),
        ("GET", "/v1/rings/beta", None),
        ("DELETE", "/v1/rings/beta", None),
    ]
    for method, path, body in routes:
        answer = await stranger.call(method, path, **({"json": body} if body is not None else {}))
        assert answer.status_code == 404, (method, path, answer.text)
    for path, name in (("/v1/models", "models"), ("/v1/deployments", "deployments"), ("/v1/rings", "rings")):
        assert (await stranger.ok("GET", path))[name] == []
    assert [k["tenant"] for k in (await stranger.ok("GET", "/v1/keys"))["keys"]] == [stranger.tenant]
    assert (await stranger.ok("GET", "/v1/usage"))["rows"][0]["requests"] == 0
    events = await stranger.call("GET", "/v1/events?follow=false")
    assert str(demo.tenant) not in events.text
    assert str(demo.tenant) not in (await stranger.call("GET", "/v1/audit")).text
    assert (await demo.ok("GET", "/v1/deployments/digits"))["revision"] == 1


async def test_an_artifact_is_not_shared_between_tenants_by_digest(platform: Platform, demo: Caller) -> None:
    digest = await demo.upload(b"weights")
    stranger = await platform.tenant()
    body = {
        "artifact_digest": digest,
        "format": "onnx",
        "signature": {
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1]}],
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1]}],
        },
    }
    answer = await stranger.call("POST", "/v1/models/digits/versions", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "artifact_missing")


async def test_only_an_operator_acts_for_another_tenant(platform: Platform, demo: Caller) -> None:
    stranger = await platform.tenant()
    answer = await stranger.call("GET", "/v1/models", headers={"moorage-tenant": str(demo.tenant)})
    assert answer.status_code == 403
    whoami = await platform.operator.ok("GET", "/v1/whoami", headers={"moorage-tenant": str(demo.tenant)})
    assert whoami["tenant"] == demo.tenant
    unknown = {"moorage-tenant": f"none{secrets.token_hex(4)}"}
    answer = await platform.operator.call("GET", "/v1/whoami", headers=unknown)
    assert answer.status_code == 404


async def test_a_suspended_tenants_keys_are_refused_until_it_is_active_again(platform: Platform, demo: Caller) -> None:
    limits = f"/v1/tenants/{demo.tenant}/limits"
    await platform.operator.ok("PUT", limits, json={"status": "suspended"})
    answer = await demo.call("GET", "/v1/whoami")
    assert (answer.status_code, answer.json()["code"]) == (403, "tenant_suspended")
    await platform.operator.ok("PUT", limits, json={"burst": 7})
    assert (await demo.call("GET", "/v1/whoami")).status_code == 403
    await platform.operator.ok("PUT", limits, json={"status": "active"})
    assert (await demo.call("GET", "/v1/whoami")).status_code == 200


SHARES: list[tuple[list[dict[str, object]], str | None]] = [
    ([{"gpu_model": "T4", "guaranteed_milli": 500}, {"gpu_model": "T4"}], "gpu_share_twice"),
    ([{}, {}], "gpu_share_twice"),
    ([{"gpu_model": "T4", "guaranteed_milli": 1500}, {"guaranteed_milli": 501}], "gpu_share_over_limit"),
    ([{"gpu_model": "T4", "weight": 0}], "invalid_request"),
    ([{"gpu_model": "T4", "guarantee": 1}], "invalid_request"),
    ([{"gpu_model": "T4", "guaranteed_milli": 1500, "borrow_milli": 0}, {"guaranteed_milli": 500, "weight": 2}], None),
]


async def test_an_operator_sets_shares_that_fit_the_tenants_limit(platform: Platform, demo: Caller) -> None:
    limits = f"/v1/tenants/{demo.tenant}/limits"
    for shares, code in SHARES:
        answer = await platform.operator.call("PUT", limits, json={"gpu_shares": shares})
        assert (answer.status_code, answer.json().get("code")) == (422 if code else 200, code), shares
    held = await platform.operator.ok("PUT", limits, json={"allow_code": True})
    assert held["allow_code"]
    assert held["gpu_shares"] == [
        {"gpu_model": "T4", "guaranteed_milli": 1500, "borrow_milli": 0, "weight": 1.0},
        {"gpu_model": "", "guaranteed_milli": 500, "borrow_milli": None, "weight": 2.0},
    ]
    answer = await platform.operator.call("PUT", limits, json={"gpu_milli": 1000})
    assert answer.json()["code"] == "gpu_share_over_limit"
    body = {"name": f"t{secrets.token_hex(6)}", "limits": {"gpu_shares": SHARES[2][0]}}
    assert (await platform.operator.call("POST", "/v1/tenants", json=body)).json()["code"] == "gpu_share_over_limit"
