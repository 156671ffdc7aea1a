"""The transactional outbox: events are rows of the transaction that caused them, and leave for JetStream afterwards.

Delivery is at least once: a row stays unpublished until JetStream acknowledged it, and a second publication carries
the same `Nats-Msg-Id`. Rows are kept, so followers read them in commit order and lost messages can be sent again.
"""

import asyncio
import contextlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

import nats.js.errors
import structlog
from sqlalchemy import Index, Text, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from moorage_common.bus import BUS_ERRORS, Bus
from moorage_common.clock import Clock, wall_clock
from moorage_common.contracts.events import CloudEvent, event_subject
from moorage_common.contracts.names import STREAM_EVENTS
from moorage_common.db import Base, Database, RowNumber

log = structlog.get_logger()

POLL_S = 1.0
EVENTS_MAX_AGE_S = 7 * 86_400.0
_BATCH = 200
_APPEND_LOCK = 0x6D6F6F72
_NAMESPACE = uuid.UUID("5c0f6e0c-5a52-5e1c-9d3b-1f2f6d6f6f72")


class OutboxRow(Base):
    """One event. `id` grows in the order of commits."""

    __tablename__ = "outbox"

    id: Mapped[int] = mapped_column(RowNumber, primary_key=True)
    event_id: Mapped[str] = mapped_column(unique=True)
    tenant: Mapped[str]
    payload: Mapped[str] = mapped_column(Text)
    created_at: Mapped[float]
    published_at: Mapped[float | None]

    __table_args__ = (Index("ix_outbox_tenant_id", "tenant", "id"), Index("ix_outbox_published_at", "published_at"))


def event_id(aggregate: str, version: int) -> str:
    """UUIDv5(aggregate, version): the same change has the same id however often it is published."""
    return str(uuid.uuid5(_NAMESPACE, f"{aggregate}@{version}"))


async def append(session: AsyncSession, events: Sequence[CloudEvent], now: float) -> None:
    """Add `events` as the transaction's last statements.

    Postgres numbers rows before they commit, so appends take turns there: a follower that has seen row n never
    misses one below n.
    """
    if not events:
        return
    if session.get_bind().dialect.name == "postgresql":
        await session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _APPEND_LOCK})
    session.add_all(
        OutboxRow(event_id=e.id, tenant=e.tenant, payload=e.model_dump_json(), created_at=now) for e in events
    )
    await session.flush()


@dataclass
class Relay:
    """Publishes outbox rows to the stream EVT: at once after `wake`, else each second, for ever."""

    db: Database
    bus: Bus
    clock: Clock = wall_clock
    _awake: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        self._awake.set()

    async def run(self) -> None:
        """Relay until cancelled. The bus being away delays events and loses none."""
        while True:
            try:
                await self.bus.wait()
                await self._publish_all()
            except BUS_ERRORS as error:
                log.debug("events wait in the outbox", error=str(error))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._awake.wait()
            self._awake.clear()

    async def backlog(self) -> int:
        """Rows not published yet."""
        async with self.db.read() as session:
            count = await session.scalar(select(func.count()).where(OutboxRow.published_at.is_(None)))
            return count or 0

    async def _publish_all(self) -> None:
        while True:
            async with self.db.read() as session:
                unpublished = select(OutboxRow).where(OutboxRow.published_at.is_(None))
                rows = (await session.scalars(unpublished.order_by(OutboxRow.id).limit(_BATCH))).all()
            if rows:
                await self._publish(rows)
            if len(rows) < _BATCH:
                return

    async def _publish(self, rows: Sequence[OutboxRow]) -> None:
        done: list[int] = []
        try:
            for row in rows:
                await self._send(CloudEvent.model_validate_json(row.payload))
                done.append(row.id)
        finally:
            if done:
                async with self.db.write() as session:
                    await session.execute(
                        update(OutboxRow).where(OutboxRow.id.in_(done)).values(published_at=self.clock())
                    )

    async def _send(self, event: CloudEvent) -> None:
        payload = event.model_dump_json().encode()
        headers = {"Nats-Msg-Id": event.id}
        try:
            await self.bus.jetstream().publish(event_subject(event), payload, headers=headers)
        except nats.js.errors.NoStreamResponseError:
            await self.bus.ensure_stream(STREAM_EVENTS, ["evt.>"], EVENTS_MAX_AGE_S)
            await self.bus.jetstream().publish(event_subject(event), payload, headers=headers)
