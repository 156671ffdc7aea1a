"""Rows of rings, and who uses them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from moorage_common.contracts.names import TenantId
from moorage_registry.deployments.tables import TrafficRow
from moorage_registry.rings.tables import RingRow
from moorage_registry.rollouts.tables import RolloutRow


class RingRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, tenant: TenantId, row: RingRow) -> None:
        row.tenant = tenant
        self._session.add(row)
        await self._session.flush()

    async def get(self, tenant: TenantId, name: str) -> RingRow | None:
        return await self._session.get(RingRow, (tenant, name))

    async def all(self, tenant: TenantId) -> Sequence[RingRow]:
        """By name."""
        query = select(RingRow).where(RingRow.tenant == tenant).order_by(RingRow.name)
        return (await self._session.scalars(query)).all()

    async def names(self, tenant: TenantId) -> set[str]:
        return set(await self._session.scalars(select(RingRow.name).where(RingRow.tenant == tenant)))

    async def count(self, tenant: TenantId) -> int:
        query = select(func.count()).select_from(RingRow).where(RingRow.tenant == tenant)
        return int(await self._session.scalar(query) or 0)

    async def delete(self, tenant: TenantId, row: RingRow) -> None:
        assert row.tenant == tenant  # noqa: S101 - the caller got it by its tenant
        await self._session.delete(row)

    async def users(self, tenant: TenantId) -> Mapping[str, Sequence[str]]:
        """By ring's name, the models whose traffic or running rollout names it, in order."""
        found: dict[str, set[str]] = defaultdict(set)
        for traffic in await self._session.scalars(select(TrafficRow).where(TrafficRow.tenant == tenant)):
            for ring in traffic.rings:
                found[ring["name"]].add(traffic.model)
        running = select(RolloutRow).where(RolloutRow.tenant == tenant, RolloutRow.finished_at.is_(None))
        for rollout in await self._session.scalars(running):
            for step in rollout.policy.get("steps", []):
                if step.get("ring"):
                    found[step["ring"]].add(rollout.model)
        return {name: sorted(models) for name, models in found.items()}
