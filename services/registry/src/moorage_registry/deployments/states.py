"""Reading all that is published about models, of one or of every tenant, in a handful of queries."""

from collections import defaultdict
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from moorage_common.contracts.names import TenantId
from moorage_registry.catalog.tables import ArtifactRow, ModelRow, VersionRow
from moorage_registry.deployments.models import Revision
from moorage_registry.deployments.sharing import Sharing, route_rings, sharing_of
from moorage_registry.deployments.tables import DeploymentRow, RevisionRow, TrafficRow
from moorage_registry.deployments.views import ModelState
from moorage_registry.rings.tables import RingRow
from moorage_registry.rollouts.published import published_of
from moorage_registry.rollouts.tables import MOVING, RolloutRow

Row = TypeVar("Row", VersionRow, DeploymentRow, TrafficRow)


@dataclass(frozen=True)
class ModelStates:
    """Models' rows come first, so that a state is never older than its revision says."""

    session: AsyncSession

    async def one(self, tenant: TenantId, model: str) -> ModelState | None:
        found = await self._read(tenant, model)
        return found[0] if found else None

    async def all(self) -> list[ModelState]:
        """Of every tenant: for publication."""
        return await self._read(None, None)

    async def _read(self, tenant: TenantId | None, model: str | None) -> list[ModelState]:
        query = select(ModelRow)
        if tenant is not None:
            query = query.where(ModelRow.tenant == tenant, ModelRow.name == model)
        owners = (await self.session.scalars(query)).all()
        versions: dict[tuple[str, str], list[VersionRow]] = defaultdict(list)
        for version in await self._rows(VersionRow, tenant, model):
            versions[version.tenant, version.model].append(version)
        deployed = await self._deployed(tenant, model)
        traffic = {(row.tenant, row.model): row for row in await self._rows(TrafficRow, tenant, model)}
        rings = await self._rings(tenant)
        rollouts = await self._moving(tenant, model)
        sizes = await self._sizes(tenant)
        states = []
        for owner in owners:
            place = (owner.tenant, owner.name)
            told = traffic.get(place)
            shared = sharing_of(told) if told is not None else Sharing()
            states.append(
                ModelState(
                    tenant=TenantId(owner.tenant),
                    model=owner.name,
                    revision=owner.revision,
                    versions=sorted(versions[place], key=lambda version: version.number),
                    sizes=sizes[owner.tenant],
                    deployed=deployed.get(place),
                    traffic_revision=told.revision if told is not None else 0,
                    arms=shared.arms,
                    sticky=shared.sticky,
                    rings=route_rings(told.rings, rings[owner.tenant]) if told is not None else [],
                    rollout=published_of(rollouts[place]) if place in rollouts else None,
                )
            )
        return states

    async def _rows(self, table: type[Row], tenant: TenantId | None, model: str | None) -> list[Row]:
        query: Select[tuple[Row]] = select(table)
        if tenant is not None:
            query = query.where(table.tenant == tenant, table.model == model)
        return list(await self.session.scalars(query))

    async def _moving(self, tenant: TenantId | None, model: str | None) -> dict[tuple[str, str], RolloutRow]:
        query = select(RolloutRow).where(MOVING)
        if tenant is not None:
            query = query.where(RolloutRow.tenant == tenant, RolloutRow.model == model)
        return {(row.tenant, row.model): row for row in await self.session.scalars(query)}

    async def _deployed(self, tenant: TenantId | None, model: str | None) -> dict[tuple[str, str], Revision]:
        query = select(RevisionRow).join(
            DeploymentRow,
            (DeploymentRow.tenant == RevisionRow.tenant)
            & (DeploymentRow.model == RevisionRow.model)
            & (DeploymentRow.revision == RevisionRow.revision),
        )
        query = query.where(DeploymentRow.deleted.is_(False))
        if tenant is not None:
            query = query.where(RevisionRow.tenant == tenant, RevisionRow.model == model)
        rows = await self.session.scalars(query)
        return {(row.tenant, row.model): Revision.model_validate(row.spec) for row in rows}

    async def _rings(self, tenant: TenantId | None) -> dict[str, dict[str, RingRow]]:
        query = select(RingRow)
        if tenant is not None:
            query = query.where(RingRow.tenant == tenant)
        rings: dict[str, dict[str, RingRow]] = defaultdict(dict)
        for row in await self.session.scalars(query):
            rings[row.tenant][row.name] = row
        return rings

    async def _sizes(self, tenant: TenantId | None) -> dict[str, dict[str, int]]:
        query = select(ArtifactRow.tenant, ArtifactRow.digest, ArtifactRow.size_bytes)
        if tenant is not None:
            query = query.where(ArtifactRow.tenant == tenant)
        sizes: dict[str, dict[str, int]] = defaultdict(dict)
        for owner, digest, size_bytes in await self.session.execute(query):
            sizes[owner][digest] = size_bytes
        return sizes
