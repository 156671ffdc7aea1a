"""Rows of tenants."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from moorage_common.contracts.names import TenantId
from moorage_common.db import insert_into
from moorage_registry.tenants.tables import EpochRow, TenantRow

CLOSED = ("deleting", "deleted")
"""Statuses of tenants that nothing new is taken of."""


class TenantRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, row: TenantRow) -> bool:
        """False when the name is taken."""
        values = {column.key: getattr(row, column.key) for column in TenantRow.__table__.columns}
        insert = insert_into(self._session, TenantRow).values(values).on_conflict_do_nothing()
        added = await self._session.scalar(insert.returning(TenantRow.name))
        return added is not None

    async def get(self, tenant: TenantId, *, lock: bool = False) -> TenantRow | None:
        """The tenant; with `lock`, held against other locks alone: rows that refer to it may still be added."""
        query = select(TenantRow).where(TenantRow.name == tenant)
        return await self._session.scalar(query.with_for_update(key_share=True) if lock else query)

    async def lock_out(self, tenant: TenantId) -> TenantRow | None:
        """The tenant, once every transaction that changes something of it has ended."""
        return await self._session.scalar(select(TenantRow).where(TenantRow.name == tenant).with_for_update())

    async def status_held(self, tenant: TenantId) -> str | None:
        """The tenant's status, which stays so until the transaction ends as far as `lock_out` goes."""
        query = select(TenantRow.status).where(TenantRow.name == tenant)
        return await self._session.scalar(query.with_for_update(read=True, key_share=True))

    async def closed(self, *statuses: str) -> Sequence[TenantRow]:
        """Tenants that are being deleted, or were, by name."""
        query = select(TenantRow).where(TenantRow.status.in_(statuses or CLOSED)).order_by(TenantRow.name)
        return (await self._session.scalars(query)).all()

    async def closed_among(self, tenants: set[str]) -> set[str]:
        """Those of the tenants that are being deleted, or were."""
        query = select(TenantRow.name).where(TenantRow.name.in_(tenants), TenantRow.status.in_(CLOSED))
        return set(await self._session.scalars(query))

    async def all(self) -> Sequence[TenantRow]:
        """Every tenant by name: for operators and publication."""
        return (await self._session.scalars(select(TenantRow).order_by(TenantRow.name))).all()

    async def epoch(self) -> int:
        """Of what the registry publishes."""
        return (await self._session.scalars(select(EpochRow.epoch))).one()
