"""Rows of clusters."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from moorage_common.db import insert_into
from moorage_registry.clusters.tables import ClusterRow


class ClusterRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def get(self, name: str) -> ClusterRow | None:
        return await self._session.get(ClusterRow, name)

    async def locked(self, name: str) -> ClusterRow:
        """The cluster's row, made when absent, held until the transaction ends."""
        values = {"name": name, "drained": [], "version": 0}
        await self._session.execute(insert_into(self._session, ClusterRow).values(values).on_conflict_do_nothing())
        query = select(ClusterRow).where(ClusterRow.name == name).with_for_update()
        return (await self._session.scalars(query)).one()

    async def all(self) -> Sequence[ClusterRow]:
        return (await self._session.scalars(select(ClusterRow).order_by(ClusterRow.name))).all()
