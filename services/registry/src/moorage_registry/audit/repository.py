"""Rows of the audit log."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from moorage_common.contracts.names import TenantId
from moorage_registry.audit.tables import AuditRow


class AuditRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def page(self, tenant: TenantId, before: int | None, limit: int) -> Sequence[AuditRow]:
        """The newest `limit` rows below the id `before`."""
        query = select(AuditRow).where(AuditRow.tenant == tenant)
        if before is not None:
            query = query.where(AuditRow.id < before)
        return (await self._session.scalars(query.order_by(AuditRow.id.desc()).limit(limit))).all()
