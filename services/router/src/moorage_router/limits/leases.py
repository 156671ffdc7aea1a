"""Tokens of one limit in this router, paid in advance and spent from memory.

A lease lives 500 ms; what is left of it then is given back. The next one is fetched in the background when a quarter
is left. After a denial the router denies by itself for a while, so that an abuser costs no Redis. While Redis is away
each router runs its own bucket at the share of the limit that it used to take.
"""

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import structlog

from moorage_router.limits import gcra
from moorage_router.limits.buckets import Bucket
from moorage_router.limits.calls import Call, StoreState
from moorage_router.limits.outage import Outage
from moorage_router.limits.store import STORE_ERRORS, Ask, Granted

log = structlog.get_logger()

LEASE_S = 0.5
_RATE_MEMORY_S = 0.2
_LEAST_SHARE = 0.05
_SHARE_MEMORY_S = 3.0
_LEARN_FROM = 10
"""Tokens granted, at least, between two looks at the share."""


@dataclass(frozen=True, slots=True)
class Denied:
    """Why a request may not pass. `reason` is `rate` or `store` (Redis is away and the limit is closed)."""

    reason: str
    retry_after_s: float
    bucket: Bucket


@dataclass(slots=True)
class Lease:
    tokens: int
    ends: float


class Gate:
    """One bucket's tokens in this router. Times are seconds of the monotonic clock."""

    __slots__ = (
        "_asked",
        "_back",
        "_denied_until",
        "_last_fold",
        "_learned_all",
        "_learned_at",
        "_learned_mine",
        "_leases",
        "_local_tat",
        "_low",
        "_mine",
        "_net",
        "_outage",
        "_owed",
        "_rate",
        "_room",
        "_share_mine",
        "_used_at",
        "bucket",
        "call",
        "due",
        "policy",
        "share",
        "state",
        "waiting",
    )

    def __init__(self, bucket: Bucket, state: StoreState) -> None:
        self.state = state
        self.call: Call | None = None
        self.due = False
        self.waiting = 0
        self._leases: deque[Lease] = deque()
        self._back = 0
        self._asked = 0
        self._rate = 0.0
        self._last_fold = self._used_at = time.monotonic()
        self._local_tat = 0.0
        self._net: int | None = None
        self._mine = 0
        self._share_mine = 0
        self._low = -1
        self._owed = 0
        self._outage = Outage()
        self.share = 1 / max(1, state.routers)
        self._learned_at = self._last_fold
        self._learned_mine, self._learned_all = _LEARN_FROM * self.share, float(_LEARN_FROM)
        self.update(bucket)

    def update(self, bucket: Bucket) -> None:
        """Take a changed limit at once; tokens held stay valid to the end of their lease."""
        self.bucket = bucket
        self._denied_until = 0.0
        self._room = bucket.burst
        self.policy = f'ratelimit-policy: {bucket.policy}\r\nratelimit: "{bucket.kind}";r='.encode()

    @property
    def tokens(self) -> int:
        """Tokens held now, expired ones included until they are given back."""
        return sum(lease.tokens for lease in self._leases)

    @property
    def remaining(self) -> int:
        """Requests that would pass at once: tokens held, and those that the store had when it last answered."""
        found = self._room
        for lease in self._leases:
            found += lease.tokens
        return found

    @property
    def idle(self) -> bool:
        """Nothing to give back and nothing on its way."""
        return not self._leases and not self._back and self.call is None

    def forgettable(self, now: float, unused_s: float) -> bool:
        """Whether a new gate would do as well: unused for so long, and nothing is known that a new one would not."""
        self._fold(now)
        unused = now - self._used_at > unused_s
        return unused and self.idle and not self.waiting and not self._owed and now >= self._local_tat

    def take(self, now: float) -> bool:
        """Spend one token from memory, if there is one. Counts as one request; fetches more in time."""
        self._asked += 1
        leases = self._leases
        while leases:
            lease = leases[0]
            if lease.tokens > 0 and now < lease.ends:
                lease.tokens -= 1
                if lease.tokens <= self._low and self.call is None and len(leases) == 1 and not self.due:
                    prefetch((self,))
                return True
            self._back += lease.tokens
            leases.popleft()
        return False

    def count(self) -> None:
        """A request asks. (`take` counts by itself.)"""
        self._asked += 1

    def holds(self, now: float) -> bool:
        """Whether a token is in memory."""
        leases = self._leases
        while leases:
            if leases[0].tokens > 0 and now < leases[0].ends:
                return True
            self._back += leases.popleft().tokens
        return False

    def spend(self) -> None:
        """Spend a token that it `holds`."""
        self._leases[0].tokens -= 1

    def is_low(self, times: int = 1) -> bool:
        """Whether more should be fetched: a quarter of a lease is left (`times` 2: half of it)."""
        found = self.call is None and len(self._leases) == 1 and self._leases[0].tokens <= self._low * times
        return found and not self.due

    def denies(self, now: float) -> Denied | None:
        """Whether the store said so a moment ago, or the limit is zero."""
        if now < self._denied_until:
            return Denied("rate", self._denied_until - now, self.bucket)
        return Denied("rate", 60.0, self.bucket) if self.bucket.rate <= 0 else None

    def alone(self, now: float) -> gcra.Taken | Denied:
        """Decide without the store, at the learned share of the limit."""
        rate, burst = self._local()
        taken = gcra.take(self._local_tat, now, rate=rate, burst=burst)
        return Denied("rate", taken.retry_after_s, self.bucket) if isinstance(taken, gcra.Refused) else taken

    def spend_alone(self, taken: gcra.Taken, now: float) -> None:
        """Let one pass that `alone` found to fit."""
        self._local_tat = taken.tat
        rate, burst = self._local()
        self._room = max(0, int(burst - (taken.tat - now) * rate))
        self._owed = min(self._owed + 1, self.bucket.burst)
        if self.state.breaker.opened:
            self._outage.spend(now, 1 / self.share, self.bucket)

    def _local(self) -> tuple[float, float]:
        rate = self.bucket.rate * self.share
        return rate, gcra.local_burst(rate, self.bucket.burst * self.share)

    def chunk(self, now: float) -> int:
        """Tokens to fetch at once, by how often was asked lately."""
        self._fold(now)
        chunk = gcra.chunk(self._rate, self.bucket.burst, self.state.routers)
        self._low = chunk // 4 if chunk >= gcra.LEAST_LEASE else -1
        return chunk

    def _fold(self, now: float) -> None:
        elapsed = now - self._last_fold
        if elapsed < 0.01:
            return
        if self._asked:
            self._used_at = now
        weight = 1 - math.exp(-elapsed / _RATE_MEMORY_S)
        self._rate += (self._asked / elapsed - self._rate) * weight
        self._asked = 0
        self._last_fold = now

    def expire(self, now: float) -> bool:
        """Whether something is to be given back, and no call is under way that could."""
        while self._leases and now >= self._leases[0].ends:
            self._back += self._leases.popleft().tokens
        return self._back > 0 and self.call is None

    def ask(self, want: int, now: float) -> Ask:
        """What to ask the store, which is given back what is unused."""
        back, self._back = self._back, 0
        in_use = self._outage.in_use(now, self.bucket)
        if in_use:
            self._owed = 0
        return Ask(self.bucket, want + self._owed if want else 0, back, in_use)

    def received(self, ask: Ask, granted: Granted, asked_at: float) -> None:
        """The store's answer."""
        now = time.monotonic()
        self._outage.over(now, granted.in_use)
        self._room = max(0, int(self.bucket.burst - granted.in_use))
        if granted.tokens:
            paid = min(self._owed, granted.tokens)
            self._owed -= paid
            self._leases.append(Lease(tokens=granted.tokens - paid, ends=asked_at + LEASE_S))
            rate, burst = self._local()
            self._local_tat = gcra.charged(self._local_tat, now, granted.tokens, rate=rate, burst=burst)
        elif ask.want and granted.retry_after_s:
            self._denied_until = now + max(granted.retry_after_s, random.uniform(0.025, 0.05))  # noqa: S311 - jitter
        self._learn_share(granted.net, granted.tokens - ask.give_back)

    def _learn_share(self, net: int, mine: int) -> None:
        """Follow which part of all tokens granted of late came here."""
        self._mine += mine
        if self._net is None or net < self._net:
            self._net, self._share_mine = net, self._mine
            return
        total = net - self._net
        if total >= _LEARN_FROM:
            now = time.monotonic()
            keep = max(0.5, math.exp((self._learned_at - now) / _SHARE_MEMORY_S))
            self._learned_mine = self._learned_mine * keep + self._mine - self._share_mine
            self._learned_all = self._learned_all * keep + total
            part = min(1.0, max(0.0, self._learned_mine / self._learned_all))
            self.share = max(_LEAST_SHARE / max(1, self.state.routers), part)
            self._net, self._share_mine, self._learned_at = net, self._mine, now


def fetch(gates: Sequence[Gate], now: float, *, together: bool = False) -> Call:
    """Ask the store, at once, for the next tokens of gates of one tenant that have no call under way.

    Args:
        together: a request needs one of each, and none is taken unless all are there.
    """
    chunks = [gate.chunk(now) for gate in gates]
    wants = [(gate, max(gate.waiting, chunk)) for gate, chunk in zip(gates, chunks, strict=True)]
    leased = max(chunks) >= gcra.LEAST_LEASE
    return _ask(wants, now, leased=leased, together=together)


def prefetch(gates: Sequence[Gate]) -> None:
    """Fetch in the background, each for itself; not before the request that noticed has gone on."""
    for gate in gates:
        gate.due = True
    asyncio.get_running_loop().call_soon(_fetch_due, gates)


def _fetch_due(gates: Sequence[Gate]) -> None:
    now = time.monotonic()
    for gate in gates:
        gate.due = False
    asked = [gate for gate in gates if gate.call is None and gate.denies(now) is None]
    if asked and not asked[0].state.breaker.opened:
        fetch(asked, now)


def give_back(gates: Iterable[Gate], now: float) -> None:
    """Return what expired, of gates of one tenant; called ten times a second."""
    due = [(gate, 0) for gate in gates if gate.expire(now)]
    if due and not due[0][0].state.breaker.opened:
        _ask(due, now, leased=True, together=False)


def _ask(wants: Sequence[tuple[Gate, int]], now: float, *, leased: bool, together: bool) -> Call:
    call = Call(wants[0][0].state, leased=leased)
    for gate, _ in wants:
        gate.call = call
    call.task = asyncio.create_task(_lease(call, wants, now, together=together), name="limit-lease")
    return call


async def _lease(call: Call, wants: Sequence[tuple[Gate, int]], asked_at: float, *, together: bool) -> None:
    state, tenant = wants[0][0].state, wants[0][0].bucket.tenant
    asks = [gate.ask(want, asked_at) for gate, want in wants]
    try:
        answers = await state.store.lease(tenant, asks, together=together)
    except STORE_ERRORS as error:
        state.breaker.failed()
        log.debug("lease failed", tenant=tenant, error=str(error))
    else:
        state.breaker.succeeded()
        for (gate, _), ask, granted in zip(wants, asks, answers, strict=True):
            gate.received(ask, granted, asked_at)
    finally:
        for gate, _ in wants:
            gate.call = None
        call.end()
