"""Requests a month. The ledger is the authority; routers hold reservations for what has not reached it yet.

What a router holds is in its row until it expires, and what its chunks bring is taken off in the ledger's own
transaction. So at any time: ledger + reservations <= limit.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import structlog
from nats.aio.msg import Msg
from pydantic import ValidationError
from sqlalchemy import case, delete, func, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from moorage_common.bus import BUS_ERRORS, Bus
from moorage_common.clock import Clock
from moorage_common.contracts.names import QUOTA_SUBJECT, TenantId
from moorage_common.contracts.quota import QuotaAsk, QuotaGrant, month_of
from moorage_common.contracts.usage import UsageChunk
from moorage_common.db import Database, insert_into
from moorage_registry.tenants.repository import TenantRepository
from moorage_registry.usage.tables import MonthRow, ReservationRow

log = structlog.get_logger()

_QUEUE = "registry-quota"
_AT_ONCE = 8
_NO_ANSWER: tuple[type[Exception], ...] = (SQLAlchemyError, *BUS_ERRORS)
_FORGET_EACH_S = 3600.0
_KEPT_S = 2 * 86_400.0
"""Rows of a month stay so long after its end, for chunks that come late."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A tenant's month at one instant, from one router's view.

    Attributes:
        used: requests in the ledger.
        settled: those of them that this router's boot brought.
        granted: all that this router's boot might let pass so far; 0 when that has expired.
        others: other routers with a reservation that has not expired.
        held: what those may let pass beyond the ledger.
    """

    used: int
    settled: int
    granted: int
    others: int
    held: int


def room_of(standing: Standing, limit: int, spent: int) -> int:
    """What is left of the month when everything admitted and reserved elsewhere is taken off; may be below 0."""
    return limit - standing.used - standing.held - max(0, spent - standing.settled)


def grant_of(standing: Standing, room: int, ask: QuotaAsk) -> int:
    """What a router gets of what it wants: an equal part where others share the room, rounded up.

    Never less than it holds already, which it may be spending at this moment, unless it wants less itself.
    """
    part = -(-room // (standing.others + 1))
    kept = standing.granted - max(ask.spent, standing.settled)
    return max(0, min(ask.want, room, max(part, kept)))


class ReservationRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def standing(self, ask: QuotaAsk, now: float) -> Standing:
        """One statement, so that a chunk is in the ledger and off its reservation, or neither."""
        place = (ReservationRow.tenant == ask.tenant, ReservationRow.month == ask.month)
        own = (*place, ReservationRow.owner == ask.owner)
        live = (*place, ReservationRow.owner != ask.owner, ReservationRow.expires_at > now)
        held = func.sum(case((ReservationRow.granted > ReservationRow.settled, _UNSETTLED), else_=0))
        used = select(MonthRow.requests).where(MonthRow.tenant == ask.tenant, MonthRow.month == ask.month)
        found = await self._session.execute(
            select(
                used.scalar_subquery(),
                select(ReservationRow.settled).where(*own).scalar_subquery(),
                select(ReservationRow.granted).where(*own, ReservationRow.expires_at > now).scalar_subquery(),
                select(func.count()).where(*live).scalar_subquery(),
                select(held).where(*live).scalar_subquery(),
            )
        )
        return Standing(*(int(value or 0) for value in found.one()))

    async def put(self, ask: QuotaAsk, granted: int, expires_at: float) -> bool:
        """Note what the owner may let pass in all. False when a later question of it was answered already."""
        row = {"tenant": ask.tenant, "month": ask.month, "owner": ask.owner, "n": ask.n, "granted": granted}
        insert = insert_into(self._session, ReservationRow).values(**row, settled=0, expires_at=expires_at)
        upsert = insert.on_conflict_do_update(
            index_elements=["tenant", "month", "owner"],
            set_={"n": ask.n, "granted": granted, "expires_at": expires_at},
            where=ReservationRow.n < ask.n,
        )
        return await self._session.scalar(upsert.returning(ReservationRow.n)) is not None

    async def settle(self, chunks: Sequence[UsageChunk]) -> None:
        """Add newly counted chunks to their months, and take them off their routers' reservations."""
        months: defaultdict[tuple[str, str], int] = defaultdict(int)
        owned: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        for chunk in chunks:
            for row in chunk.rows:
                if row.requests:
                    months[row.tenant, month_of(row.hour)] += row.requests
                    owned[row.tenant, month_of(row.hour), f"{chunk.router}:{chunk.boot}"] += row.requests
        for (tenant, month), requests in sorted(months.items()):
            insert = insert_into(self._session, MonthRow).values(tenant=tenant, month=month, requests=requests)
            await self._session.execute(
                insert.on_conflict_do_update(
                    index_elements=["tenant", "month"], set_={"requests": MonthRow.requests + requests}
                )
            )
        for place in await self._reserved({owner for _tenant, _month, owner in owned}):
            if place in owned:
                tenant, month, owner = place
                await self._session.execute(
                    update(ReservationRow)
                    .where(ReservationRow.tenant == tenant, ReservationRow.month == month)
                    .where(ReservationRow.owner == owner)
                    .values(settled=ReservationRow.settled + owned[place])
                )

    async def _reserved(self, owners: Iterable[str]) -> list[tuple[str, str, str]]:
        """The reservations of these owners, in an order that two registries share."""
        columns = (ReservationRow.tenant, ReservationRow.month, ReservationRow.owner)
        found = await self._session.execute(select(*columns).where(ReservationRow.owner.in_(owners)).order_by(*columns))
        return [(tenant, month, owner) for tenant, month, owner in found]

    async def months(self, month: str, tenant: TenantId | None, now: float) -> dict[str, tuple[int, int]]:
        """(used, held) by tenant: of one, or of all who have any."""
        held = func.sum(case((ReservationRow.granted > ReservationRow.settled, _UNSETTLED), else_=0))
        used_by = select(MonthRow.tenant, MonthRow.requests).where(MonthRow.month == month)
        held_by = (
            select(ReservationRow.tenant, held)
            .where(ReservationRow.month == month, ReservationRow.expires_at > now)
            .group_by(ReservationRow.tenant)
        )
        if tenant is not None:
            used_by, held_by = used_by.where(MonthRow.tenant == tenant), held_by.where(ReservationRow.tenant == tenant)
        used = {name: int(count) for name, count in await self._session.execute(used_by)}
        reserved = {name: int(count) for name, count in await self._session.execute(held_by)}
        return {name: (used.get(name, 0), reserved.get(name, 0)) for name in {*used, *reserved}}

    async def forget(self, month: str) -> None:
        """Drop the reservations of earlier months."""
        await self._session.execute(delete(ReservationRow).where(ReservationRow.month < month))


_UNSETTLED = ReservationRow.granted - ReservationRow.settled


@dataclass
class Reservations:
    """Answers routers. Several registries share the questions; a tenant's row keeps them from granting twice."""

    db: Database
    bus: Bus
    clock: Clock
    life_s: float
    _answering: set[asyncio.Task[None]] = field(default_factory=set)
    _turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))

    async def run(self) -> None:
        """Answer until cancelled; the subscription outlives reconnects."""
        await self.bus.wait()
        subscription = await self.bus.client.subscribe(QUOTA_SUBJECT, queue=_QUEUE, cb=self._take)
        try:
            await asyncio.Event().wait()
        finally:
            with contextlib.suppress(*BUS_ERRORS):
                await subscription.unsubscribe()
            await asyncio.gather(*self._answering, return_exceptions=True)

    async def reserve(self, ask: QuotaAsk) -> QuotaGrant | None:
        """Grant what is there. None for a question that a later one overtook, and where there is no such tenant."""
        async with self.db.write() as session:
            tenant = await TenantRepository(session).get(TenantId(ask.tenant), lock=True)
            if tenant is None:
                return None
            now, rows = self.clock(), ReservationRepository(session)
            standing, limit = await rows.standing(ask, now), tenant.requests_per_month
            room = ask.want if limit is None else room_of(standing, limit, ask.spent)
            granted = ask.want if limit is None else grant_of(standing, room, ask)
            if not await rows.put(ask, max(ask.spent, standing.settled) + granted, now + self.life_s):
                return None
        return QuotaGrant(
            granted=granted, life_s=self.life_s, limit=limit, used=standing.used, room=room,
            held_by_others=standing.held,
        )  # fmt: skip

    async def forget_old(self) -> None:
        """Each hour, drop what is only of earlier months."""
        while True:
            async with self.db.write() as session:
                await ReservationRepository(session).forget(month_of(self.clock() - _KEPT_S))
            await asyncio.sleep(_FORGET_EACH_S)

    async def _take(self, message: Msg) -> None:
        try:
            ask = QuotaAsk.model_validate_json(message.data)
        except ValidationError as error:
            log.warning("unreadable question for a month's requests", errors=error.error_count())
            return
        task = asyncio.create_task(self._answer(message, ask), name="quota-answer")
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, message: Msg, ask: QuotaAsk) -> None:
        try:
            async with self._turns:
                granted = await self.reserve(ask)
            if granted is not None:
                await message.respond(granted.model_dump_json().encode())
        except _NO_ANSWER as error:
            log.warning("a month's requests not granted", tenant=ask.tenant, error=type(error).__name__)
