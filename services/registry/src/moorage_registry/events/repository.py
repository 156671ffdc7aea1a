"""Events of a tenant, read from the outbox in commit order."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from moorage_common.contracts.names import TenantId
from moorage_common.outbox import OutboxRow

PAGE = 500


class EventRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def after(self, tenant: TenantId, cursor: int) -> Sequence[OutboxRow]:
        """At most 500 rows after `cursor`, the id of a row."""
        query = select(OutboxRow).where(OutboxRow.tenant == tenant, OutboxRow.id > cursor)
        return (await self._session.scalars(query.order_by(OutboxRow.id).limit(PAGE))).all()

    async def position(self, tenant: TenantId, event_id: str) -> int | None:
        """The row of one of the tenant's events."""
        query = select(OutboxRow.id).where(OutboxRow.tenant == tenant, OutboxRow.event_id == event_id)
        return await self._session.scalar(query)
