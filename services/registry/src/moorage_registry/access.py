"""The one place where it is decided who may ask for what. A route without a rule is refused when the app is made."""

import hmac
from dataclasses import replace
from typing import Annotated, Any

from fastapi import Depends, Header, Request

from moorage_common.access import ANY_KEY, ANYONE, ruled
from moorage_common.contracts.names import TenantId
from moorage_common.errors import Forbidden, Unauthenticated
from moorage_common.secrets import internal_token
from moorage_registry.deps import Registry, RegistryDep
from moorage_registry.keys.scopes import ADMIN
from moorage_registry.keys.service import Principal, authenticate
from moorage_registry.tenants.repository import CLOSED, TenantRepository
from moorage_registry.tenants.service import closed, existing

__all__ = [
    "ANYONE",
    "ANY_KEY",
    "INTERNAL",
    "SIGNED_URL",
    "anyone",
    "bearer",
    "caller_of",
    "internal",
    "require",
    "signed_url",
]

SIGNED_URL = "signed URL"
"""The rule of routes that take a signature in place of a key."""
INTERNAL = "internal token"
"""The rule of routes for Moorage's own processes."""


def caller_of(registry: Registry, request: Request) -> str:
    """The address that a request came from; "" where that is not known."""
    peer = request.client.host if request.client is not None else ""
    return registry.proxies.caller(peer, ",".join(request.headers.getlist("x-forwarded-for")) or None)


async def bearer(registry: Registry, authorization: str | None, acting_for: str | None, address: str = "") -> Principal:
    """Who asks, from `address`. An operator may name the tenant to act for.

    Raises Unauthenticated, Forbidden; NotFound or Conflict when an operator names a tenant that
    there is none of, or that is being deleted.
    """
    scheme, _, key = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        message = "send an API key as 'Authorization: Bearer mrg_...'"
        raise Unauthenticated(message, code="key_missing")
    async with registry.db.read() as session:
        principal = await authenticate(session, registry.pepper, key.strip(), registry.clock(), address)
        registry.uses.note(principal.kid, registry.clock())
        if acting_for is None or acting_for == principal.tenant:
            return principal
        if not principal.is_admin:
            message = f"only a {ADMIN} key may act for another tenant; leave out the header Moorage-Tenant"
            raise Forbidden(message, code="foreign_tenant")
        row = await existing(TenantRepository(session), TenantId(acting_for))
        if row.status in CLOSED:
            raise closed(row.name)
    return replace(principal, tenant=TenantId(acting_for))


def require(scope: str) -> Any:
    """A dependency that yields the Principal, where its key carries `scope` (or is an operator's)."""

    async def principal(
        registry: RegistryDep,
        request: Request,
        authorization: Annotated[str | None, Header()] = None,
        moorage_tenant: Annotated[str | None, Header()] = None,
    ) -> Principal:
        found = await bearer(registry, authorization, moorage_tenant, caller_of(registry, request))
        if scope != ANY_KEY and not found.may(scope):
            message = f"this needs a key with the scope {scope}; yours has {', '.join(found.scopes)}"
            raise Forbidden(message, code="scope_missing")
        return found

    return Depends(ruled(principal, scope))


def signed_url() -> Any:
    """A dependency that passes only requests whose URL this registry signed: artifacts, for replica hosts."""

    def check(registry: RegistryDep, request: Request, expires: int, signature: str) -> None:
        path = request.path_params
        registry.urls.check(path["tenant"], path["digest"], expires, signature, registry.clock())

    return Depends(ruled(check, SIGNED_URL))


def anyone() -> Any:
    """A dependency that passes every caller and yields the address of each."""

    def address(registry: RegistryDep, request: Request) -> str:
        return caller_of(registry, request)

    return Depends(ruled(address, ANYONE))


def internal() -> Any:
    """A dependency that passes only Moorage's own processes, which hold the internal token."""

    def check(registry: RegistryDep, authorization: Annotated[str | None, Header()] = None) -> None:
        expected = f"Bearer {internal_token(registry.pepper)}"
        if not hmac.compare_digest((authorization or "").encode(), expected.encode()):
            raise Unauthenticated("this is for Moorage's own processes", code="internal_only")

    return Depends(ruled(check, INTERNAL))
