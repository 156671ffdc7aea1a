"""Requests a month: a router spends, from memory, what the registry's ledger granted it.

A block lives a minute and is renewed in the background when a quarter is left, so requests wait only where a tenant's
first one finds nothing. All counts are since the boot: an answer that is lost costs nothing. Without the registry a
block is spent to its end; then a tenant goes on at the pace that the rest of the month allows, or as its
`on_store_loss` says.
"""

import asyncio
import math
import time
from collections.abc import Callable

import structlog
from pydantic import ValidationError

from moorage_common.bus import BUS_ERRORS, Bus
from moorage_common.contracts.keys import TenantLimits
from moorage_common.contracts.names import QUOTA_SUBJECT
from moorage_common.contracts.quota import QuotaAsk, QuotaGrant, month_bounds, month_of
from moorage_common.contracts.versioned import Versioned
from moorage_common.errors import OverQuota, Unavailable
from moorage_router.limits import gcra

log = structlog.get_logger()

WAIT_S = 0.25
"""How long a request that finds nothing waits for the registry."""
ASK_TIMEOUT_S = 1.0
BLOCK_S = 10.0
"""A block is what passes here in so many seconds."""
LEAST_BLOCK = 8
RENEWALS = 3
"""A block is renewed so many times in its life."""
RETRY_S = 1.0
SPENT_RETRY_S = 5.0
_TICK_S = 1.0
_BURST_S = 60.0
_RATE_MEMORY_S = 1.0
_NO_ANSWER: tuple[type[Exception], ...] = (*BUS_ERRORS, ValidationError)


class Month:
    """What one tenant may still do here in the calendar month. Times are seconds of the monotonic clock.

    Attributes:
        limit: requests a month; None: no bound, and then they are only counted.
        out: requests of the month let pass since the boot, those in flight among them, without those that failed.
        granted: so many may be `out`, until `ends`.
    """

    __slots__ = (
        "_asked_at", "_asked_out", "_call", "_final", "_life_s", "_local_tat", "_low", "_n", "_rate", "_rest_until",
        "_room", "_source", "_waiting", "away", "ends", "granted", "in_flight", "limit", "month", "month_ends",
        "on_store_loss", "out", "tenant",
    )  # fmt: skip

    def __init__(self, tenant: str, source: "Months") -> None:
        self.tenant = tenant
        self.limit: int | None = None
        self.on_store_loss = "local"
        self.out = self.granted = self.in_flight = 0
        self.away = False
        self.month = ""
        self.ends = self.month_ends = 0.0
        self._source = source
        self._call: asyncio.Task[None] | None = None
        self._n = self._waiting = self._asked_out = 0
        self._low = 0
        self._asked_at = self._rest_until = self._local_tat = 0.0
        self._rate = 0.0
        self._final = False
        self._life_s = 60.0
        self._room: float | None = None
        self._begin(time.time())

    def update(self, limits: TenantLimits) -> None:
        """Take changed limits at once: what was told of the old one does not hold."""
        self.on_store_loss = limits.on_store_loss
        if limits.requests_per_month != self.limit:
            self.limit = limits.requests_per_month
            self._rest_until, self._final, self._room = 0.0, False, None
            self._low = max(self._low, self.granted - self.out)

    def take(self, now: float) -> bool:
        """Let a request pass from memory, if it may; `ended` must follow."""
        if self.limit is None:
            if now >= self.month_ends:
                self._begin(time.time())
        elif self.out >= self.granted or now >= self.ends:
            return False
        elif self.granted - self.out <= self._low and self._call is None and now >= self._rest_until:
            self._ask(now)
        self.out += 1
        self.in_flight += 1
        return True

    def ended(self, *, counted: bool) -> None:
        """The request is over; one that does not count gives its place back."""
        self.in_flight -= 1
        if not counted:
            self.out -= 1

    async def admit(self) -> None:
        """Let a request pass that found nothing in memory.

        Raises:
            OverQuota: `month_spent`.
            Unavailable: `month_unknown`, the ledger does not answer and this tenant's limits are closed then.
        """
        self._waiting += 1
        try:
            while (now := time.monotonic()) >= self._rest_until and not self.away:
                if now >= self.month_ends:
                    self._begin(time.time())
                call = self._call or self._ask(now)
                done, _ = await asyncio.wait({call}, timeout=WAIT_S)
                if self.take(time.monotonic()):
                    return
                if not done:
                    self.away = True
        finally:
            self._waiting -= 1
        self._without_grant(time.monotonic())

    def _without_grant(self, now: float) -> None:
        if self.away:
            if self.on_store_loss == "closed":
                message = (
                    "the month's requests cannot be counted now and this tenant's are set to be refused then; try again"
                )
                raise Unavailable(message, code="month_unknown", retry_after_s=RETRY_S)
            if self.on_store_loss == "local" and not self._pace(now):
                raise self._spent(RETRY_S if self._left() > 0 else self.month_ends - now)
        else:
            raise self._spent(self.month_ends - now if self._final else RETRY_S)
        self.out += 1
        self.in_flight += 1

    def _pace(self, now: float) -> bool:
        """One request at the pace that would use up the rest of the month, of which this router has its part."""
        rate = self._left() / max(1.0, self.month_ends - now) / max(1, self._source.routers())
        taken = gcra.take(self._local_tat, now, rate=rate, burst=max(1.0, rate * _BURST_S))
        if isinstance(taken, gcra.Refused):
            return False
        self._local_tat = taken.tat
        return True

    def _left(self) -> float:
        """Requests that the month has left, by what is known here."""
        if self._room is not None:
            return self._room - self.out
        begin, end = month_bounds(self.month)
        return (self.limit or 0) * max(0.0, end - time.time()) / (end - begin) - self.out

    def _spent(self, retry_after_s: float) -> OverQuota:
        message = (
            f"the {self.limit} requests of the month are used up; wait for the next one or ask for a higher limit"
            if retry_after_s > RETRY_S
            else f"no more of the {self.limit} requests a month are to be had at this moment; try again"
        )
        return OverQuota(message, code="month_spent", retry_after_s=retry_after_s)

    def _begin(self, wall: float) -> None:
        """A month, from what is in flight: it will end in it."""
        self.month = month_of(wall)
        self.month_ends = time.monotonic() + month_bounds(self.month)[1] - wall
        self.out, self.granted = self.in_flight, 0
        self._asked_out = self.out
        self._rest_until, self._room, self._final = 0.0, None, False

    def tick(self, now: float, *, unshipped: bool) -> None:
        """Each second: renew what is held, and find out whether the registry is back."""
        if self.limit is None or self._call is not None:
            return
        if now >= self.month_ends:
            self._begin(time.time())
        elif self.away:
            self._ask(now)
        elif self._n and now - self._asked_at >= self._life_s / RENEWALS:
            held = self.granted > self.out and now < self.ends
            if held or self.in_flight or self.out != self._asked_out or unshipped:
                self._ask(now)

    def _wanted(self, now: float) -> int:
        """A block by what passed lately; nothing when nothing did."""
        elapsed = max(1e-3, now - self._asked_at) if self._n else 1.0
        passed = max(0, self.out - self._asked_out)
        self._rate += (passed / elapsed - self._rate) * min(1.0, elapsed / _RATE_MEMORY_S)
        if passed or self._waiting or self.in_flight:
            return max(LEAST_BLOCK, self._waiting, math.ceil(self._rate * BLOCK_S))
        return 0

    def _ask(self, now: float, want: int | None = None) -> asyncio.Task[None]:
        want = self._wanted(now) if want is None else want
        self._n += 1
        self._asked_at, self._asked_out = now, self.out
        self.granted = min(self.granted, self.out + want)
        ask = QuotaAsk(
            tenant=self.tenant, owner=self._source.owner, month=self.month, n=self._n, spent=self.out, want=want
        )
        self._call = asyncio.create_task(self._answered(ask, now), name="month-ask")
        return self._call

    async def _answered(self, ask: QuotaAsk, asked_at: float) -> None:
        try:
            grant = await self._source.ask(ask)
        except _NO_ANSWER as error:
            log.debug(
                "no answer about a month's requests", tenant=self.tenant, error=str(error) or type(error).__name__
            )
            self.away = True
            self._rest_until = time.monotonic() + RETRY_S
            return
        finally:
            self._call = None
        self.away = False
        if ask.month != self.month:
            return
        self.granted = ask.spent + grant.granted
        self._life_s = grant.life_s
        self.ends = min(asked_at + grant.life_s, self.month_ends)
        self._room = ask.spent + grant.room
        self._low = ask.want // 4
        if grant.granted < ask.want:
            self._low = min(self._low, grant.granted // 4)
        if not grant.granted and ask.want:
            self._final = grant.held_by_others == 0 and grant.room <= 0
            self._rest_until = time.monotonic() + (SPENT_RETRY_S if self._final else RETRY_S)

    async def give_back(self) -> None:
        """Tell the registry that what is left here is not needed."""
        if self.limit is not None and self._n:
            if self._call is not None:
                await asyncio.wait({self._call})
            await self._ask(time.monotonic(), 0)


class Months:
    """The tenants that have a limit a month, or had one since the boot."""

    def __init__(self, bus: Bus, owner: str, routers: Callable[[], int], unshipped: Callable[[], int]) -> None:
        """`owner` is `router:boot`; `routers` share the limits; `unshipped` requests are not in the stream yet."""
        self.owner = owner
        self.routers = routers
        self._bus = bus
        self._unshipped = unshipped
        self._months: dict[str, Month] = {}

    def apply(self, tenant: str, entry: Versioned) -> None:
        """Take one entry of the bucket `limits`; an unreadable one changes nothing."""
        try:
            limits = TenantLimits.model_validate(entry.value)
        except ValidationError:
            return
        month = self._months.get(tenant)
        if month is None:
            if limits.requests_per_month is None:
                return
            month = self._months[tenant] = Month(tenant, self)
        month.update(limits)

    async def admit(self, tenant: str) -> Month | None:
        """Let one request pass; its month, whose `ended` must be called, or None where there is no limit.

        Raises as `Month.admit` does.
        """
        month = self._months.get(tenant)
        if month is not None and not month.take(time.monotonic()):
            await month.admit()
        return month

    async def ask(self, question: QuotaAsk) -> QuotaGrant:
        """What a registry answers within a second. Raises one of BUS_ERRORS, ValidationError."""
        if not self._bus.connected:
            raise ConnectionError("the bus is away")
        payload = question.model_dump_json().encode()
        reply = await self._bus.client.request(QUOTA_SUBJECT, payload, timeout=ASK_TIMEOUT_S)
        return QuotaGrant.model_validate_json(reply.data)

    async def run(self) -> None:
        """Renew until cancelled."""
        while True:
            await asyncio.sleep(_TICK_S)
            now, unshipped = time.monotonic(), self._unshipped() > 0
            for month in self._months.values():
                month.tick(now, unshipped=unshipped)

    async def close(self) -> None:
        """Give back what is held."""
        await asyncio.gather(*(month.give_back() for month in self._months.values()))
