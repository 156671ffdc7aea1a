"""Who calls: a tenant with an API key, or a process of Moorage with the internal token and the tenant it acts for."""

import hmac
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Header, Request

from moorage_common.access import ruled
from moorage_common.clock import Clock
from moorage_common.contracts.names import TenantId, is_name
from moorage_common.errors import BadRequest, Forbidden, Unauthenticated, Unavailable
from moorage_common.key_table import KeyTable, bearer, require_scope
from moorage_common.kv import BucketReader
from moorage_common.networks import Proxies
from moorage_common.secrets import internal_token

INTERNAL = "internal"
"""A scope that no key has: what it guards is for processes of Moorage alone."""


@dataclass(frozen=True)
class Authenticator:
    """Turns the headers of a request into the tenant it speaks for."""

    keys: KeyTable
    reader: BucketReader
    pepper: str
    clock: Clock
    proxies: Proxies

    def tenant(self, authorization: str | None, acting_for: str | None, scope: str, address: str) -> TenantId:
        """The tenant, if its key carries `scope` and may be used from `address`; the internal token carries all.

        Raises:
            Unauthenticated, Forbidden: no valid key, a key without the scope, or one for other networks.
            BadRequest: the internal token without a tenant.
            Unavailable: the keys have not been read yet.
        """
        credential = bearer(authorization)
        if hmac.compare_digest(credential.encode(), internal_token(self.pepper).encode()):
            if acting_for is None or not is_name(acting_for):
                raise BadRequest("send the tenant's name in the header Moorage-Tenant", code="tenant_absent")
            return TenantId(acting_for)
        try:
            record = self.keys.check(credential, self.clock(), address)
        except Unauthenticated as error:
            if error.code == "key_unknown" and not self.reader.synced.is_set():
                message = "API keys are still being read; try again"
                raise Unavailable(message, code="not_ready", retry_after_s=1) from error
            raise
        require_scope(record, scope)
        if acting_for is not None and acting_for != record.tenant:
            raise Forbidden(f"this API key speaks for the tenant {record.tenant!r} alone", code="other_tenant")
        return TenantId(record.tenant)


def require(scope: str) -> Any:
    """A dependency that yields the tenant that the request speaks for, where its key carries `scope`."""

    def tenant(
        request: Request,
        authorization: Annotated[str | None, Header()] = None,
        moorage_tenant: Annotated[str | None, Header()] = None,
    ) -> TenantId:
        authenticator: Authenticator = request.app.state.deps.authenticator
        peer = request.client.host if request.client is not None else ""
        hops = ",".join(request.headers.getlist("x-forwarded-for")) or None
        return authenticator.tenant(authorization, moorage_tenant, scope, authenticator.proxies.caller(peer, hops))

    return Depends(ruled(tenant, scope))
