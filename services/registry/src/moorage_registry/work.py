"""One request or message: one transaction, its audit rows, its events, and what is published after it."""

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from moorage_common import outbox
from moorage_common.clock import Clock, rfc3339
from moorage_common.contracts.events import CloudEvent, EventType
from moorage_common.contracts.names import TenantId
from moorage_common.db import Database
from moorage_registry.audit.tables import AuditRow

SOURCE = "moorage/registry"


@dataclass(frozen=True)
class Touched:
    """Something published that a transaction changed: `kind` is `key`, `limits`, `cluster` or `model`."""

    kind: str
    tenant: TenantId
    name: str


@dataclass
class Work:
    """A transaction in progress. `actor` is a kid, or the process that reported something."""

    session: AsyncSession
    tenant: TenantId
    actor: str
    now: float
    events: list[CloudEvent] = field(default_factory=list)
    touched: set[Touched] = field(default_factory=set)

    def audit(self, action: str, target: str, **detail: Any) -> None:
        """Note in the audit log that `actor` did `action` to `target`."""
        self.session.add(
            AuditRow(tenant=self.tenant, at=self.now, actor=self.actor, action=action, target=target, detail=detail)
        )

    def happened(self, event: EventType, subject: str, count: int, /, *, aggregate: str = "", **data: Any) -> None:
        """Audit the change and emit it as an event, whose id is UUIDv5(its type and aggregate, `count`).

        Args:
            count: which change this is of the aggregate: its version or revision.
            aggregate: what `count` counts the changes of; the subject unless given.
        """
        self.audit(event, subject, **data)
        self.events.append(
            CloudEvent(
                id=outbox.event_id(f"{event}:{self.tenant}/{aggregate or subject}", count),
                source=SOURCE,
                type=event,
                subject=subject,
                time=rfc3339(self.now),
                tenant=self.tenant,
                data=data,
            )
        )

    def touch(self, kind: str, name: str) -> None:
        """Have what is published about this thing written anew after the commit."""
        self.touched.add(Touched(kind, self.tenant, name))


@dataclass(frozen=True)
class Works:
    """Begins work and commits it: rows, audit and events together, then publication."""

    db: Database
    clock: Clock
    wake_relay: Callable[[], None]
    publish: Callable[[set[Touched]], None]

    @contextlib.asynccontextmanager
    async def begin(self, tenant: TenantId, actor: str) -> AsyncIterator[Work]:
        async with self.db.write() as session:
            work = Work(session, tenant, actor, self.clock())
            yield work
            await session.flush()
            await outbox.append(session, work.events, work.now)
        self.publish(work.touched)
        self.wake_relay()
