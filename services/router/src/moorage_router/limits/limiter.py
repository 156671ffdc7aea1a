"""All tenants' gates, fed by `limits/<tenant>`, and the background work they share."""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import structlog
from pydantic import ValidationError

from moorage_common.contracts.keys import KeyRecord, Rate, TenantLimits
from moorage_common.contracts.versioned import Versioned
from moorage_common.errors import OverQuota
from moorage_router.limits.buckets import of_tenant, within
from moorage_router.limits.calls import StoreState
from moorage_router.limits.leases import Gate, give_back
from moorage_router.limits.nests import Nest
from moorage_router.limits.refusals import refusal
from moorage_router.limits.store import STORE_ERRORS

log = structlog.get_logger()

_TICK_S = 0.1
_HEARTBEAT_S = 1.0
_KEY_UNUSED_S = 60.0


class Tenant:
    """A tenant's limits and what of them is in use in this router.

    Attributes:
        gate: of all its requests; `keys` of those keys that have a rate, as they come; `models` of those that have one.
        nest: of a request that only `gate` bounds.
    """

    __slots__ = ("_state", "gate", "in_flight", "keys", "limits", "models", "name", "nest")

    def __init__(self, limits: TenantLimits, state: StoreState) -> None:
        self.name = limits.tenant
        self.gate = Gate(of_tenant(limits), state)
        self.nest = Nest(self.gate)
        self.keys: dict[str, Gate] = {}
        self.models: dict[str, Gate] = {}
        self.in_flight = 0
        self._state = state
        self.update(limits)

    def update(self, limits: TenantLimits) -> None:
        """Take changed limits at once."""
        self.limits = limits
        self.gate.update(of_tenant(limits))
        for gate in self.keys.values():
            gate.update(replace(gate.bucket, on_store_loss=limits.on_store_loss))
        held, self.models = self.models, {}
        for rate in limits.model_rates:
            bucket = within(limits, "model", rate.model, rate)
            gate = self.models[rate.model] = held.get(rate.model) or Gate(bucket, self._state)
            gate.update(bucket)

    def gates(self) -> Iterator[Gate]:
        """All of them."""
        yield self.gate
        yield from self.models.values()
        yield from self.keys.values()

    def nest_of(self, principal: KeyRecord, model: str) -> Nest:
        """The limits of a request to `model` with a key of the tenant's."""
        rate, of_model = principal.rate, self.models.get(model)
        if rate is not None:
            of_key = self._of_key(principal.kid, rate)
            return Nest(of_key, self.gate) if of_model is None else Nest(of_key, of_model, self.gate)
        return self.nest if of_model is None else Nest(of_model, self.gate)

    def _of_key(self, kid: str, rate: Rate) -> Gate:
        gate = self.keys.get(kid)
        if gate is None:
            gate = self.keys[kid] = Gate(within(self.limits, "key", kid, rate), self._state)
        elif gate.bucket.rate != rate.requests_per_s or gate.bucket.burst != rate.burst:
            gate.update(within(self.limits, "key", kid, rate))
        return gate

    def sweep(self, now: float) -> None:
        """Forget keys that nobody used of late."""
        for kid in [kid for kid, gate in self.keys.items() if gate.forgettable(now, _KEY_UNUSED_S)]:
            del self.keys[kid]


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
            held.update(limits)

    def add(self, limits: TenantLimits) -> Tenant:
        """A tenant not known so far."""
        tenant = self.tenants[limits.tenant] = Tenant(limits, self.state)
        return tenant

    def of(self, name: str) -> Tenant:
        """The tenant of a key; one whose limits are not known yet has the usual ones."""
        tenant = self.tenants.get(name)
        return tenant if tenant is not None else self.add(TenantLimits(tenant=name))

    async def admit(self, tenant: Tenant, principal: KeyRecord, model: str) -> Nest:
        """Let one request of `tenant` to `model` pass; the limits that it counts against.

        Raises OverQuota, or Unavailable when the tenant's limits are closed without Redis.
        """
        if tenant.in_flight - self._parked(tenant.name) >= tenant.limits.max_concurrent:
            message = f"more than {tenant.limits.max_concurrent} requests at once; wait for answers before sending more"
            raise OverQuota(message, code="too_many_concurrent", retry_after_s=1)
        now = time.monotonic()
        if principal.rate is None and not tenant.models:
            nest = tenant.nest
            if tenant.gate.take(now):
                return nest
        else:
            nest = tenant.nest_of(principal, model)
            if nest.take(now):
                return nest
        denied = await nest.admit(now)
        if denied is not None:
            raise refusal(denied)
        return nest

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
                    tenant.sweep(now)
            for tenant in self.tenants.values():
                if not tenant.gate.idle or tenant.models or tenant.keys:
                    give_back(tenant.gates(), now)
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
