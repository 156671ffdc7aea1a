"""People over the registry's REST interface: sessions and members."""

from typing import Any
from urllib.parse import quote

from moorage_sdk.retry import RetryPolicy
from moorage_sdk.spec import Json
from moorage_sdk.transport import TIMEOUT_S, Transport
from moorage_sdk.wire import Service


class SigningIn:
    """What needs no key: how people sign in at a registry, and the exchange of their token. A context manager."""

    def __init__(self, registry: str) -> None:
        service = Service(registry.rstrip("/"), "", "MOORAGE_REGISTRY", needs_key=False)
        self._http = Transport(service, policy=RetryPolicy(), timeout_s=TIMEOUT_S)

    def identity(self) -> Json:
        """`{identity, issuer, client_id, token, router}`; identity is `none` where people do not sign in."""
        return dict(self._http.json("GET", "/v1/identity"))

    def start_session(self, token: str, tenant: str | None = None) -> Json:
        """`{key, kid, tenant, subject, name, role, scopes, expires_at}` for a token of the identity provider.

        Raises:
            MoorageApiError: `token_refused`; `not_a_member` of `tenant` or any; `tenant_not_named` where there are
                several; `tenant_suspended`; `no_identity_provider`; `identity_unavailable`.
        """
        body: Json = {"token": token, **({"tenant": tenant} if tenant else {})}
        return dict(self._http.json("POST", "/v1/sessions", json=body))

    def __enter__(self) -> "SigningIn":
        return self

    def __exit__(self, *_error: object) -> None:
        self._http.close()


class People:
    """The tenant's members, and the end of one's own session. Every method may raise `MoorageApiError`."""

    def __init__(self, transport: Transport) -> None:
        self._http = transport

    def sign_out(self) -> None:
        """End the session whose key is in use. `not_a_session` for an API key."""
        self._http.request("DELETE", "/v1/sessions/current")

    def members(self) -> list[Json]:
        """`{subject, name, role, created_at, created_by}` each."""
        answer: Any = self._http.json("GET", "/v1/members")
        return list(answer["members"])

    def set_member(self, subject: str, role: str, name: str | None = None) -> Json:
        """Let a person in, or change the role: in force at once. `role_above_own`, `last_owner`."""
        body: Json = {"role": role, **({"name": name} if name is not None else {})}
        return dict(self._http.json("PUT", f"/v1/members/{quote(subject, safe='')}", json=body))

    def remove_member(self, subject: str) -> None:
        """End a membership, and the person's sessions with it."""
        self._http.request("DELETE", f"/v1/members/{quote(subject, safe='')}")
