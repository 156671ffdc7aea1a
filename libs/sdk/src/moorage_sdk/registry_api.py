"""The registry's REST interface, one method a route."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from moorage_common.contracts.answers import Defragmented, Explanation, Nodes, Shares
from moorage_common.contracts.events import CloudEvent
from moorage_sdk.answers import Change, DeploymentStatus, FeedbackStatus, Ring, Shadow, Traffic, Version
from moorage_sdk.errors import MoorageApiError
from moorage_sdk.spec import Json
from moorage_sdk.transport import TIMEOUT_S, Transport

_SLOWEST_UPLOAD_BYTES_PER_S = 250_000


def _rows(answer: Any, name: str) -> list[Any]:
    rows = answer[name]
    assert isinstance(rows, list)  # noqa: S101 - the registry's contract
    return rows


def _part(name: str) -> str:
    return quote(name, safe="")


class RegistryApi:
    """Desired state, catalogue, keys and ledger of one tenant. Every method may raise `MoorageApiError`."""

    def __init__(self, transport: Transport) -> None:
        self._http = transport

    def whoami(self) -> Json:
        """`{tenant, kid, scopes, subject}` of the key; `subject` is the person whose session it is, "" for API keys."""
        return dict(self._http.json("GET", "/v1/whoami"))

    # tenants and keys

    def create_tenant(self, name: str, limits: Mapping[str, Any] | None = None) -> Json:
        body = {"name": name, **({"limits": dict(limits)} if limits else {})}
        return dict(self._http.json("POST", "/v1/tenants", json=body))

    def tenants(self) -> list[Json]:
        return _rows(self._http.json("GET", "/v1/tenants"), "tenants")

    def tenant(self, name: str) -> Json:
        """`{name, limits, created_at}`: one's own tenant, or any to an administrator."""
        return dict(self._http.json("GET", f"/v1/tenants/{_part(name)}"))

    def create_key(self, scopes: list[str], *, environment: str = "live", expires_in_s: float | None = None) -> Json:
        """A new key; its text, under `key`, is shown this once."""
        body: Json = {"scopes": scopes, "environment": environment}
        if expires_in_s is not None:
            body["expires_in_s"] = expires_in_s
        return dict(self._http.json("POST", "/v1/keys", json=body))

    def keys(self) -> list[Json]:
        return _rows(self._http.json("GET", "/v1/keys"), "keys")

    def revoke_key(self, kid: str) -> None:
        self._http.request("DELETE", f"/v1/keys/{_part(kid)}")

    # artifacts and versions

    def has_artifact(self, digest: str) -> bool:
        try:
            self._http.request("HEAD", f"/v1/artifacts/{digest}")
        except MoorageApiError as error:
            if error.status == 404:
                return False
            raise
        return True

    def upload_artifact(self, digest: str, content: bytes) -> None:
        headers = {"content-type": "application/octet-stream"}
        timeout_s = TIMEOUT_S + len(content) / _SLOWEST_UPLOAD_BYTES_PER_S
        self._http.request("PUT", f"/v1/artifacts/{digest}", content=content, headers=headers, timeout_s=timeout_s)

    def create_version(self, model: str, body: Json) -> Version:
        return Version.model_validate(self._http.json("POST", f"/v1/models/{_part(model)}/versions", json=body))

    def version(self, model: str, version: int) -> Version:
        return Version.model_validate(self._http.json("GET", f"/v1/models/{_part(model)}/versions/{version}"))

    def versions(self, model: str) -> list[Version]:
        """Every version of the model, oldest first."""
        rows = _rows(self._http.json("GET", f"/v1/models/{_part(model)}/versions"), "versions")
        return sorted((Version.model_validate(row) for row in rows), key=lambda found: found.version)

    def models(self) -> list[Json]:
        return _rows(self._http.json("GET", "/v1/models"), "models")

    # deployments

    def deployments(self) -> list[Json]:
        return _rows(self._http.json("GET", "/v1/deployments"), "deployments")

    def deployment(self, model: str) -> Json | None:
        """The deployment as it stands, or None where there is none."""
        try:
            return dict(self._http.json("GET", f"/v1/deployments/{_part(model)}"))
        except MoorageApiError as error:
            if error.status == 404:
                return None
            raise

    def put_deployment(self, model: str, spec: Json) -> Json:
        return dict(self._http.json("PUT", f"/v1/deployments/{_part(model)}", json=spec))

    def deployment_changes(self, model: str, spec: Json) -> list[Change]:
        """What `put_deployment` would change; nothing is written."""
        answer = self._http.json("PUT", f"/v1/deployments/{_part(model)}", json=spec, params={"dry_run": "true"})
        return [Change.model_validate(row) for row in _rows(answer, "changes")]

    def delete_deployment(self, model: str) -> None:
        self._http.request("DELETE", f"/v1/deployments/{_part(model)}")

    def traffic(self, model: str) -> Traffic:
        return Traffic.model_validate(self._http.json("GET", f"/v1/deployments/{_part(model)}/traffic"))

    def put_traffic(self, model: str, arms: list[Json], **more: Any) -> Traffic:
        """Set the arms, and of `stickiness` and `rings` what is given; with `revision` only if that has not passed."""
        body = {"arms": arms, **more}
        return Traffic.model_validate(self._http.json("PUT", f"/v1/deployments/{_part(model)}/traffic", json=body))

    def shadows(self, model: str) -> list[Shadow]:
        """What became of the copies that versions of the model got."""
        found = self._http.json("GET", f"/v1/deployments/{_part(model)}/shadows")
        return [Shadow.model_validate(row) for row in _rows(found, "shadows")]

    # rings

    def rings(self) -> list[Ring]:
        return [Ring.model_validate(row) for row in _rows(self._http.json("GET", "/v1/rings"), "rings")]

    def put_ring(self, name: str, *, header: str = "", values: Iterable[str] = (), kids: Iterable[str] = ()) -> Ring:
        """Have the ring hold callers whose `header` has one of `values`, or whose key is one of `kids`."""
        body = {"header": header, "values": list(values), "kids": list(kids)}
        return Ring.model_validate(self._http.json("PUT", f"/v1/rings/{_part(name)}", json=body))

    def delete_ring(self, name: str) -> None:
        """409 while traffic uses it."""
        self._http.request("DELETE", f"/v1/rings/{_part(name)}")

    # what runs

    def status(self, model: str) -> DeploymentStatus:
        return DeploymentStatus.model_validate(self._http.json("GET", f"/v1/deployments/{_part(model)}/status"))

    def logs(self, model: str) -> list[str]:
        """The last lines of the model's hosts, oldest first."""
        return _rows(self._http.json("GET", f"/v1/deployments/{_part(model)}/logs"), "lines")

    def explain(self, model: str) -> Explanation:
        """Why the model's replicas are where they are, or wait, and what would make them fit."""
        return Explanation.model_validate(self._http.json("GET", f"/v1/deployments/{_part(model)}/explain"))

    def feedback(self, model: str) -> FeedbackStatus:
        """What labels say of the model's versions."""
        return FeedbackStatus.model_validate(self._http.json("GET", f"/v1/deployments/{_part(model)}/feedback"))

    # nodes and shares

    def gpus(self) -> Nodes:
        """Nodes, devices and the tenant's own replicas; those of others have no names."""
        return Nodes.model_validate(self._http.json("GET", "/v1/gpus"))

    def nodes(self) -> Nodes:
        """Nodes, devices and who sits where (administrators)."""
        return Nodes.model_validate(self._http.json("GET", "/v1/nodes"))

    def drain_node(self, node: str) -> list[str]:
        """Have a node take no more replicas and lose those it has; every drained node (administrators)."""
        return _rows(self._http.json("PUT", f"/v1/nodes/{_part(node)}/drain"), "drained")

    def undrain_node(self, node: str) -> list[str]:
        """Have a node take replicas again; every node that is still drained (administrators)."""
        return _rows(self._http.json("DELETE", f"/v1/nodes/{_part(node)}/drain"), "drained")

    def cluster_state(self) -> Json:
        """All that placement decides by, with the last decisions (administrators)."""
        return dict(self._http.json("GET", "/v1/cluster/state"))

    def defragment(self, *, dry_run: bool) -> Defragmented:
        """The moves that gather free room, carried out unless `dry_run` (administrators)."""
        params = {"dry_run": str(dry_run).lower()}
        return Defragmented.model_validate(self._http.json("POST", "/v1/cluster/defragment", params=params))

    def quota(self) -> Shares:
        """What the tenant is guaranteed, may borrow, holds and waits for; of every tenant to an administrator."""
        return Shares.model_validate(self._http.json("GET", "/v1/quota"))

    def limits(self) -> list[Json]:
        """`{tenant, limits, month}`: one's own tenant's, every one's to an administrator."""
        return _rows(self._http.json("GET", "/v1/limits"), "tenants")

    def set_limits(self, tenant: str, limits: Mapping[str, Any]) -> Json:
        """Set what is given of a tenant's limits; all of them as they are then (administrators)."""
        return dict(self._http.json("PUT", f"/v1/tenants/{_part(tenant)}/limits", json=dict(limits)))

    # ledger and events

    def usage(self, by: list[str], *, start: str | None = None, end: str | None = None) -> Json:
        """`{rows, total}`, sums grouped by any of model, version, key and hour; times are RFC 3339."""
        params = {"by": ",".join(by)}
        if start:
            params["from"] = start
        if end:
            params["to"] = end
        return dict(self._http.json("GET", "/v1/usage", params=params))

    def events(self, *, follow: bool, after: str | None = None) -> Iterator[CloudEvent]:
        """The tenant's events after the one with id `after`; with `follow`, also those still to come.

        Ends when the connection does: call again with the last event's id to go on.
        """
        headers = {"last-event-id": after} if after else {}
        data: list[str] = []
        with self._http.lines("/v1/events", params={"follow": str(follow).lower()}, headers=headers) as lines:
            for line in lines:
                if line.startswith("data:"):
                    data.append(line[5:].removeprefix(" "))
                elif not line and data:
                    yield CloudEvent.model_validate(json.loads("\n".join(data)))
                    data = []
