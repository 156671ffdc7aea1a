"""Admission of one tenant's requests: tokens paid in advance and spent from memory.

A lease lives 500 ms; what is left of it then is given back. The next one is fetched in the background when a quarter
is left. After a denial the router denies by itself for a while, so that an abuser costs no Redis. While Redis is away
each router runs its own bucket at the share of the limit that it used to take.
"""

import asyncio
import math
import random
import time
from collections import deque
from dataclasses import dataclass, field

import structlog

from moorage_common.contracts.keys import TenantLimits
from moorage_router.limits import gcra
from moorage_router.limits.breaker import Breaker
from moorage_router.limits.store import STORE_ERRORS, Granted, LimitStore

log = structlog.get_logger()

LEASE_S = 0.5
LEASED_WAIT_S = 0.020
DIRECT_WAIT_S = 0.005
_RATE_MEMORY_S = 0.2
_LEAST_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Denied:
    """Why a request may not pass. `reason` is `rate` or `store` (Redis is away and the tenant's limit is closed)."""

    reason: str
    retry_after_s: float


@dataclass(slots=True)
class Lease:
    tokens: int
    ends: float


@dataclass(slots=True)
class StoreState:
    """What all tenants' gates share: the store, its breaker, and how many routers there are."""

    store: LimitStore
    breaker: Breaker = field(default_factory=Breaker)
    routers: int = 1


class Outage:
    """How much of the burst would be in use had the store seen what was admitted without it; told when it is back.

    So an outage does not hand out a fresh burst at its end.
    """

    __slots__ = ("_at", "_level", "_spent")

    def __init__(self) -> None:
        self._level = 0.0
        self._at = 0.0
        self._spent = False

    def spend(self, now: float, tokens: float, limits: TenantLimits) -> None:
        """`tokens` were admitted, here and, by this router's share, elsewhere."""
        left = max(0.0, self._level - (now - self._at) * limits.requests_per_s)
        self._level, self._at, self._spent = min(left + tokens, limits.burst), now, True

    def in_use(self, now: float, limits: TenantLimits) -> float:
        """Tokens to tell the store; 0 without an outage since the last answer."""
        if not self._spent:
            return 0.0
        return max(0.0, self._level - (now - self._at) * limits.requests_per_s)

    def over(self, now: float, in_use: float) -> None:
        """The store answered, and knows."""
        self._level, self._at, self._spent = in_use, now, False


class Call:
    """One question to the store. `settled` is set when it has ended, or has taken longer than is waited for.

    A late call goes on: what it brings is spent by later requests.
    """

    __slots__ = ("_breaker", "_leased", "_timer", "ended", "settled", "task")

    def __init__(self, breaker: Breaker, patience_s: float) -> None:
        self.settled = asyncio.Event()
        self.ended = False
        self.task: asyncio.Task[None] | None = None
        self._breaker = breaker
        self._leased = patience_s >= LEASED_WAIT_S
        self._timer = asyncio.get_running_loop().call_later(patience_s, self._look_again)

    def end(self) -> None:
        self.ended = True
        self._timer.cancel()
        self.settled.set()

    def _look_again(self, turns: int = 2) -> None:
        """Late; but a loop that was busy itself must not blame the store, so read the sockets first."""
        if self.ended:
            return
        if turns:
            asyncio.get_running_loop().call_later(0.001, self._look_again, turns - 1)
            return
        self._breaker.failed(slow=self._leased)
        self.settled.set()


class Gate:
    """One tenant's tokens in this router. Times are seconds of the monotonic clock."""

    __slots__ = (
        "_asked",
        "_back",
        "_call",
        "_denied_until",
        "_last_fold",
        "_leases",
        "_local_tat",
        "_low",
        "_mine",
        "_net", "_outage", "_owed",
        "_rate",
        "_share_mine",
        "_state",
        "_waiting",
        "limits",
        "policy",
        "share",
    )  # fmt: skip

    def __init__(self, limits: TenantLimits, state: StoreState) -> None:
        self._state = state
        self._leases: deque[Lease] = deque()
        self._call: Call | None = None
        self._denied_until = 0.0
        self._waiting = 0
        self._back = 0
        self._asked = 0
        self._rate = 0.0
        self._last_fold = time.monotonic()
        self._local_tat = 0.0
        self._net: int | None = None
        self._mine = 0
        self._share_mine = 0
        self._low = -1
        self._owed = 0
        self._outage = Outage()
        self.share = 1 / max(1, state.routers)
        self.update(limits)

    def update(self, limits: TenantLimits) -> None:
        """Take changed limits at once; tokens held stay valid to the end of their lease."""
        self.limits = limits
        self._denied_until = 0.0
        window = max(1, math.ceil(limits.burst / limits.requests_per_s)) if limits.requests_per_s > 0 else 1
        self.policy = f'"requests";q={limits.burst};w={window}'.encode()

    @property
    def tokens(self) -> int:
        """Tokens held now, expired ones included until they are given back."""
        return sum(lease.tokens for lease in self._leases)

    @property
    def idle(self) -> bool:
        """Nothing to give back and nothing on its way."""
        return not self._leases and not self._back and self._call is None

    def take(self, now: float) -> bool:
        """Spend one token from memory, if there is one. Counts as one request of the tenant."""
        self._asked += 1
        return self._spend(now)

    def _spend(self, now: float) -> bool:
        leases = self._leases
        while leases:
            lease = leases[0]
            if lease.tokens > 0 and now < lease.ends:
                lease.tokens -= 1
                if lease.tokens <= self._low and self._call is None and len(leases) == 1:
                    self._prefetch(now)
                return True
            self._back += lease.tokens
            leases.popleft()
        return False

    async def admit(self, now: float) -> Denied | None:
        """Let a request pass that found no token in memory, or say when to come back."""
        if now < self._denied_until:
            return Denied("rate", self._denied_until - now)
        if self.limits.requests_per_s <= 0:
            return Denied("rate", 60.0)
        self._waiting += 1
        try:
            while not self._state.breaker.opened:
                call = self._call or self._fetch(now)
                await call.settled.wait()
                if not call.ended:
                    break
                now = time.monotonic()
                if self._spend(now):
                    return None
                if now < self._denied_until:
                    return Denied("rate", self._denied_until - now)
        finally:
            self._waiting -= 1
        return self._without_store(time.monotonic())

    def _without_store(self, now: float) -> Denied | None:
        """Decide alone, at the learned share of the limit or as `on_store_loss` says."""
        limits = self.limits
        if limits.on_store_loss == "open":
            return None
        if limits.on_store_loss == "closed":
            return Denied("store", 1.0)
        rate = limits.requests_per_s * self.share
        burst = gcra.local_burst(rate, limits.burst * self.share)
        taken = gcra.take(self._local_tat, now, rate=rate, burst=burst)
        if isinstance(taken, gcra.Refused):
            return Denied("rate", taken.retry_after_s)
        self._local_tat = taken.tat
        if self._state.breaker.opened:
            self._outage.spend(now, 1 / self.share, limits)
        else:
            self._owed += 1
        return None

    def _chunk(self, now: float) -> int:
        elapsed = now - self._last_fold
        if elapsed >= 0.01:
            weight = 1 - math.exp(-elapsed / _RATE_MEMORY_S)
            self._rate += (self._asked / elapsed - self._rate) * weight
            self._asked = 0
            self._last_fold = now
        return gcra.chunk(self._rate, self.limits.burst, self._state.routers)

    def _prefetch(self, now: float) -> None:
        if now >= self._denied_until and not self._state.breaker.opened:
            self._fetch(now)

    def _fetch(self, now: float) -> Call:
        chunk = self._chunk(now)
        leased = chunk >= gcra.LEAST_LEASE
        self._low = chunk // 4 if leased else -1
        return self._ask(now, max(self._waiting, chunk), LEASED_WAIT_S if leased else DIRECT_WAIT_S)

    def _ask(self, now: float, want: int, patience_s: float) -> Call:
        self._call = Call(self._state.breaker, patience_s)
        self._call.task = asyncio.create_task(self._lease(self._call, now, want), name="limit-lease")
        return self._call

    def give_back(self, now: float) -> None:
        """Return what expired; called ten times a second."""
        while self._leases and now >= self._leases[0].ends:
            self._back += self._leases.popleft().tokens
        if self._back and self._call is None and not self._state.breaker.opened:
            self._ask(now, 0, LEASED_WAIT_S)

    async def _lease(self, call: Call, asked_at: float, want: int) -> None:
        limits, back, self._back = self.limits, self._back, 0
        try:
            granted = await self._state.store.lease(
                limits.tenant, rate=limits.requests_per_s, burst=limits.burst, want=want, give_back=back,
                in_use=self._outage.in_use(asked_at, limits),
            )  # fmt: skip
        except STORE_ERRORS as error:
            self._state.breaker.failed()
            log.debug("lease failed", tenant=limits.tenant, error=str(error))
        else:
            self._state.breaker.succeeded()
            self._received(granted, asked_at, want, back)
        finally:
            self._call = None
            call.end()

    def _received(self, granted: Granted, asked_at: float, want: int, back: int) -> None:
        now = time.monotonic()
        self._outage.over(now, granted.in_use)
        if granted.tokens:
            paid = min(self._owed, granted.tokens)
            self._owed -= paid
            self._leases.append(Lease(tokens=granted.tokens - paid, ends=asked_at + LEASE_S))
            rate = self.limits.requests_per_s * self.share
            burst = gcra.local_burst(rate, self.limits.burst * self.share)
            self._local_tat = gcra.charged(self._local_tat, now, granted.tokens, rate=rate, burst=burst)
        elif want:
            self._denied_until = now + max(granted.retry_after_s, random.uniform(0.025, 0.05))  # noqa: S311 - jitter
        self._learn_share(granted.net, granted.tokens - back)

    def _learn_share(self, net: int, mine: int) -> None:
        """Follow which part of all tokens granted came here."""
        self._mine += mine
        if self._net is None or net < self._net:
            self._net, self._share_mine = net, self._mine
            return
        total = net - self._net
        if total >= 10:
            part = min(1.0, max(0.0, (self._mine - self._share_mine) / total))
            self.share = max(_LEAST_SHARE / max(1, self._state.routers), self.share + 0.3 * (part - self.share))
            self._net, self._share_mine = net, self._mine
