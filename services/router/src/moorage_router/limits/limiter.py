"""All tenants' gates, fed by `limits/<tenant>`, and the background work they share."""

import asyncio
import time
from collections.abc import Callable

import structlog
from pydantic import ValidationError

from moorage_common.contracts.keys import TenantLimits
from moorage_common.contracts.versioned import Versioned
from moorage_common.errors import OverQuota, Unavailable
from moorage_router.limits.leases import Denied, Gate, StoreState
from moorage_router.limits.store import STORE_ERRORS

log = structlog.get_logger()

_TICK_S = 0.1
_HEARTBEAT_S = 1.0


class Tenant:
    """A tenant's limits and what of them is in use in this router."""

    __slots__ = ("gate", "in_flight", "limits", "name")

    def __init__(self, limits: TenantLimits, state: StoreState) -> None:
        self.name = limits.tenant
        self.limits = limits
        self.gate = Gate(limits, state)
        self.in_flight = 0


class Limiter:
    """Tenants by name. A tenant without limits is unknown here."""

    def __init__(self, state: StoreState, router: str, parked: Callable[[str], int]) -> None:
        """`parked` tells how many of a tenant's requests wait for a host: they do not count as running."""
        self.state = state
        self.tenants: dict[str, Tenant] = {}
        self._router = router
        self._parked = parked

    def apply(self, key: str, entry: Versioned) -> None:
        """Take one entry of the bucket `limits`."""
        if entry.value is None:
            self.tenants.pop(key, None)
            return
        try:
            limits = TenantLimits.model_validate(entry.value)
        except ValidationError as error:
            log.warning("unreadable limits ignored", key=key, errors=error.error_count())
            return
        held = self.tenants.get(key)
        if held is None:
            self.add(limits)
        else:
            held.limits = limits
            held.gate.update(limits)

    def add(self, limits: TenantLimits) -> Tenant:
        """A tenant not known so far."""
        tenant = self.tenants[limits.tenant] = Tenant(limits, self.state)
        return tenant

    def of(self, name: str) -> Tenant:
        """The tenant of a key; one whose limits are not known yet has the usual ones."""
        tenant = self.tenants.get(name)
        return tenant if tenant is not None else self.add(TenantLimits(tenant=name))

    async def admit(self, tenant: Tenant) -> None:
        """Let one request of `tenant` pass. Raises OverQuota, or Unavailable when its limit is closed without Redis."""
        if tenant.in_flight - self._parked(tenant.name) >= tenant.limits.max_concurrent:
            message = f"more than {tenant.limits.max_concurrent} requests at once; wait for answers before sending more"
            raise OverQuota(message, code="too_many_concurrent", retry_after_s=1)
        now = time.monotonic()
        if tenant.gate.take(now):
            return
        denied = await tenant.gate.admit(now)
        if denied is not None:
            raise refusal(denied, tenant.limits)

    async def run(self) -> None:
        """Give expired tokens back and count the routers, until cancelled."""
        next_heartbeat = 0.0
        heartbeat: asyncio.Task[None] | None = None
        while True:
            now = time.monotonic()
            if now >= next_heartbeat and (heartbeat is None or heartbeat.done()):
                next_heartbeat = now + _HEARTBEAT_S
                heartbeat = asyncio.create_task(self._heartbeat(), name="limit-heartbeat")
            for tenant in self.tenants.values():
                if not tenant.gate.idle:
                    tenant.gate.give_back(now)
            await asyncio.sleep(_TICK_S)

    async def _heartbeat(self) -> None:
        """Count the routers. It is the breaker's probe too: while that is open, nothing else asks the store."""
        try:
            self.state.routers = max(1, await self.state.store.heartbeat(self._router))
        except STORE_ERRORS as error:
            log.debug("limit heartbeat failed", error=str(error))
            self.state.breaker.failed()
        else:
            self.state.breaker.succeeded()


def refusal(denied: Denied, limits: TenantLimits) -> OverQuota | Unavailable:
    """The answer to a denial."""
    if denied.reason == "store":
        message = "the rate limit cannot be checked right now and this tenant's is set to refuse; try again"
        return Unavailable(message, code="limit_store_away", retry_after_s=denied.retry_after_s)
    message = f"over {limits.requests_per_s:g} requests a second; slow down or ask for a higher limit"
    return OverQuota(message, code="over_quota", retry_after_s=denied.retry_after_s)
