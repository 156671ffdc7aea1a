"""API keys over the registry's REST interface."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from moorage_sdk.retry import RetryPolicy
from moorage_sdk.spec import Json
from moorage_sdk.transport import TIMEOUT_S, Transport
from moorage_sdk.wire import Service


def report_leaked_key(registry: str, key: str) -> None:
    """Report the text of a key that was seen where it should not be; if there is such a key, it is revoked at once.

    Needs no key of one's own, and tells nothing about the one reported. Raises MoorageApiError: `too_many_reports`.
    """
    service = Service(registry.rstrip("/"), "", "MOORAGE_REGISTRY", needs_key=False)
    http = Transport(service, policy=RetryPolicy(), timeout_s=TIMEOUT_S)
    try:
        http.request("POST", "/v1/keys/leaked", json={"key": key})
    finally:
        http.close()


class Keys:
    """The tenant's keys: `{kid, name, scopes, cidrs, rate, expires_at, last_used_at, ...}` each, never with the text.

    Every method may raise `MoorageApiError`.
    """

    def __init__(self, transport: Transport) -> None:
        self._http = transport

    def create(
        self,
        scopes: Sequence[str],
        *,
        name: str = "",
        environment: str = "live",
        cidrs: Sequence[str] = (),
        rate: Mapping[str, float] | None = None,
        expires_in_s: float | None = None,
    ) -> Json:
        """A new key; its text, under `key`, is shown this once.

        Args:
            cidrs: networks that it may be used from.
            rate: `{requests_per_s, burst}`, within the tenant's.
        """
        more: Json = {"name": name, "cidrs": list(cidrs), "rate": rate, "expires_in_s": expires_in_s}
        body = {"scopes": list(scopes), "environment": environment, **{k: v for k, v in more.items() if v}}
        return dict(self._http.json("POST", "/v1/keys", json=body))

    def all(self) -> list[Json]:
        """Every key, oldest first, with those that ended and people's sessions."""
        answer: Any = self._http.json("GET", "/v1/keys")
        return list(answer["keys"])

    def get(self, kid: str) -> Json:
        return dict(self._http.json("GET", _path(kid)))

    def change(self, kid: str, **change: Any) -> Json:
        """Set `name`, `cidrs`, `rate` or `expires_in_s`, which only brings the end nearer."""
        return dict(self._http.json("PATCH", _path(kid), json=change))

    def rotate(self, kid: str, *, overlap_s: float | None = None) -> Json:
        """A new key that may do the same; its text, under `key`, is shown this once. The old one ends by and by."""
        body = {"overlap_s": overlap_s} if overlap_s is not None else {}
        return dict(self._http.json("POST", f"{_path(kid)}/rotate", json=body))

    def revoke(self, kid: str) -> None:
        """Refuse the key from now on, everywhere within a second."""
        self._http.request("DELETE", _path(kid))


def _path(kid: str) -> str:
    return f"/v1/keys/{quote(kid, safe='')}"
