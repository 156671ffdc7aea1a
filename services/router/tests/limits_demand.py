"""Requests put to limiters as a router puts them, without the router."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from moorage_common.contracts.keys import KeyRecord, Rate, TenantLimits
from moorage_common.errors import MoorageError
from moorage_router.limits.calls import StoreState
from moorage_router.limits.limiter import Limiter, Tenant
from moorage_router.limits.store import LimitStore

SLOW = 0.001
"""Requests a second that a test does not live to see."""


def key_of(tenant: str, rate: Rate | None = None, kid: str = "k") -> KeyRecord:
    return KeyRecord(kid=kid, tenant=tenant, digest="", scopes=[], rate=rate)


@contextlib.asynccontextmanager
async def limiters_on(url: str, count: int, *, patient: bool = False) -> AsyncIterator[list[Limiter]]:
    """So many routers' limiters on one store; patient ones never take a busy machine for an outage."""
    waits = {"leased_wait_s": 10.0, "direct_wait_s": 10.0} if patient else {}
    made = [Limiter(StoreState(LimitStore(url), **waits), f"r{n}", lambda _tenant: 0) for n in range(count)]
    for limiter in made:
        limiter.state.routers = count
    tasks = [asyncio.create_task(limiter.run()) for limiter in made]
    yield made
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for limiter in made:
        await limiter.state.store.close()


async def admitted(limiter: Limiter, tenant: Tenant, key: KeyRecord | None = None, model: str = "m") -> str:
    """`ok` or the refusal's code."""
    try:
        await limiter.admit(tenant, key or key_of(tenant.name), model)
    except MoorageError as error:
        return error.code
    return "ok"


@dataclass
class Caller:
    """Asks one limiter `rate` times a second; `passed` are the times when one passed, `slowest` the longest wait."""

    limiter: Limiter
    tenant: Tenant
    rate: float
    key: KeyRecord | None = None
    model: str = "m"
    passed: list[float] = field(default_factory=list)
    slowest: float = 0.0

    async def ask(self, seconds: float) -> float:
        """For so long; how long it was."""
        started, asked = time.monotonic(), 0
        while (now := time.monotonic()) < started + seconds:
            while asked < (now - started) * self.rate:
                asked += 1
                begun = time.monotonic()
                if await admitted(self.limiter, self.tenant, self.key, self.model) == "ok":
                    self.passed.append(time.monotonic())
                self.slowest = max(self.slowest, time.monotonic() - begun)
            await asyncio.sleep(0.002)
        return time.monotonic() - started


def limits(tenant: str, rate: float, burst: int, **more: object) -> TenantLimits:
    return TenantLimits.model_validate({"tenant": tenant, "requests_per_s": rate, "burst": burst, **more})


def trips(*limiters: Limiter) -> int:
    """How often a machine too busy to answer in time counted as an outage."""
    return sum(limiter.state.breaker.trips for limiter in limiters)
