"""A running platform with two tenants, and one caller for every way to be let in."""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
from e2e_platform import Platform, until
from sklearn.linear_model import LogisticRegression

from moorage_common import api_keys
from moorage_common.contracts.keys import PLAIN_SCOPES
from moorage_common.contracts.names import model_glob_matches
from moorage_common.contracts.roles import ROLES, Role, scopes_of
from moorage_feature_proxy.feast_protos import Registry, ValueType
from moorage_registry.people.testing import Provider
from moorage_sdk.client import Client

ADMIN = "platform:admin"
MODEL = "digits"
FEATURES_MARK = "svc"
SINGLE = [*sorted(PLAIN_SCOPES - {ADMIN}), "infer:*", "feedback:*", "infer:other-*"]


@dataclass(frozen=True)
class Caller:
    """Who asks: `name` says by what right, `key` is None for nobody; `spare` is another session of the same person."""

    name: str
    tenant: str
    key: str | None = field(repr=False)
    scopes: tuple[str, ...] = ()
    spare: str | None = field(default=None, repr=False)

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.key is None else {"authorization": f"Bearer {self.key}"}

    @property
    def is_known(self) -> bool:
        return bool(self.scopes)

    def may(self, scope: str, model: str = "") -> bool:
        """Whether its scopes have `scope`, for `model` where that takes one."""
        if model:
            return any(
                s.startswith(f"{scope}:") and model_glob_matches(s.removeprefix(f"{scope}:"), model)
                for s in self.scopes
            )
        return scope in self.scopes


@dataclass(frozen=True)
class Stage:
    """The platform, its operator, and per tenant its callers and the names of what it has."""

    urls: Mapping[str, str]
    http: httpx.Client
    people: Provider
    operator: Caller
    callers: Mapping[str, list[Caller]]
    things: Mapping[str, Mapping[str, str]]

    def ask(self, service: str, method: str, path: str, caller: Caller, **options: Any) -> httpx.Response:
        headers = {**caller.headers, **options.pop("headers", {})}
        return self.http.request(method, self.urls[service] + path, headers=headers, **options)


def definitions(project: str) -> bytes:
    """A Feast registry with the feature service `svc` of one feature."""
    registry = Registry()
    entity = registry.entities.add().spec
    entity.name, entity.project, entity.join_key, entity.value_type = "shop", project, "shop_id", ValueType.INT64
    view = registry.feature_views.add().spec
    view.name, view.project = "v", project
    view.entities.append("shop")
    service = registry.feature_services.add().spec
    service.name, service.project = FEATURES_MARK, project
    projection = service.features.add()
    projection.feature_view_name = "v"
    column = projection.feature_columns.add()
    column.name, column.value_type = "a", ValueType.DOUBLE
    content: bytes = registry.SerializeToString()
    return content


@contextlib.contextmanager
def staged(platform: Platform, people: Provider) -> Iterator[Stage]:
    """Tenant `demo` with a deployed model, a ring and features; tenant `rival` with callers alone."""
    info = platform.info
    urls = {"registry": info["registry"], "router": info["router"], "features": info["feature_proxy"]}
    operator = Caller("operator", "platform", info["admin_key"], (ADMIN,))
    with httpx.Client(timeout=60, trust_env=False) as http:
        stage = Stage(urls, http, people, operator, {}, {})
        made = stage.ask("registry", "POST", "/v1/tenants", operator, json={"name": "rival"})
        assert made.status_code == 201, made.text
        callers = {tenant: _callers(stage, tenant) for tenant in ("demo", "rival")}
        things = {"demo": _fill(stage, platform, callers["demo"][0])}
        stage = Stage(urls, http, people, operator, callers, things)
        for service, path in (("router", "/v2/models"), ("features", "/v1/features/services")):
            last = callers["rival"][-1]
            until(
                lambda service=service, path=path, last=last: (
                    stage.ask(service, "GET", path, last).status_code not in (401, 503)
                ),
                20,
                f"the newest key at the {service}",
            )
        yield stage


def _callers(stage: Stage, tenant: str) -> list[Caller]:
    """A person of every role, each scope alone, and nobody; the first may all that a tenant may."""
    found = [_signed_in(stage, tenant, role) for role in ROLES]
    found += [Caller("nobody", tenant, None), Caller("a key never made", tenant, api_keys.mint().text)]
    return found + [_minted(stage, tenant, scope, [scope]) for scope in SINGLE]


def _signed_in(stage: Stage, tenant: str, role: Role) -> Caller:
    """A person with this role, who signed in twice."""
    subject = f"{role}-{len(tenant)}"
    headers = {"moorage-tenant": tenant}
    member = {"role": role}
    let_in = stage.ask("registry", "PUT", f"/v1/members/{subject}", stage.operator, json=member, headers=headers)
    assert let_in.status_code == 200, let_in.text
    sessions = []
    for _ in range(2):
        token = stage.people.token(stage.people.claims(subject))
        begun = stage.ask("registry", "POST", "/v1/sessions", Caller(subject, tenant, None), json={"token": token})
        assert begun.status_code == 201, begun.text
        sessions.append(begun.json())
    assert sorted(sessions[0]["scopes"]) == sorted(scopes_of(role))
    return Caller(f"role {role}", tenant, sessions[0]["key"], tuple(scopes_of(role)), sessions[1]["key"])


def _minted(stage: Stage, tenant: str, name: str, scopes: list[str]) -> Caller:
    headers = {"moorage-tenant": tenant}
    made = stage.ask("registry", "POST", "/v1/keys", stage.operator, json={"scopes": scopes}, headers=headers)
    assert made.status_code == 201, made.text
    return Caller(name, tenant, made.json()["key"], tuple(scopes))


def _fill(stage: Stage, platform: Platform, owner: Caller) -> dict[str, str]:
    """Names of what the tenant has, by the place that they have in paths."""
    rows = np.random.default_rng(1).normal(size=(40, 4))
    model = LogisticRegression().fit(rows, rows[:, 0] > 0)
    with Client(platform.info["registry"], platform.info["router"], owner.key) as client:
        endpoint = client.deploy(client.push(model, name=MODEL, example=rows[:4]))
        endpoint.predict(rows[:2])
    kid = stage.ask("registry", "GET", "/v1/whoami", owner).json()["kid"]
    ring = stage.ask("registry", "PUT", "/v1/rings/beta", owner, json={"kids": [kid]})
    assert ring.status_code == 200, ring.text
    content = b"weights"
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert stage.ask("registry", "PUT", f"/v1/artifacts/{digest}", owner, content=content).is_success
    put = stage.ask("features", "PUT", "/v1/features/definitions", owner, content=definitions("demo"))
    assert put.status_code == 200, put.text
    return {
        "tenant": "demo", "kid": kid, "digest": digest, "model": MODEL, "number": "1", "version": "1", "ring": "beta",
        "feature_service": FEATURES_MARK, "rollout": "current", "node": "none-such", "subject": "viewer-4",
    }  # fmt: skip
