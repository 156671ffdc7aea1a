"""Rows of deployments, revisions, traffic and replicas."""

from collections.abc import Sequence

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from moorage_common.contracts.names import TenantId
from moorage_registry.deployments.models import Revision
from moorage_registry.deployments.tables import DeploymentRow, ReplicaRow, RevisionRow, TrafficRow


class DeploymentRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def add(self, tenant: TenantId, row: DeploymentRow | RevisionRow | TrafficRow | ReplicaRow) -> None:
        row.tenant = tenant
        self._session.add(row)

    async def flush(self) -> None:
        await self._session.flush()

    async def get(self, tenant: TenantId, model: str) -> DeploymentRow | None:
        """Deleted ones too."""
        return await self._session.get(DeploymentRow, (tenant, model))

    async def all(self, tenant: TenantId) -> Sequence[DeploymentRow]:
        """Those not deleted, by model."""
        query = select(DeploymentRow).where(DeploymentRow.tenant == tenant, DeploymentRow.deleted.is_(False))
        return (await self._session.scalars(query.order_by(DeploymentRow.model))).all()

    async def revision(self, tenant: TenantId, row: DeploymentRow) -> Revision:
        """What the deployment is now."""
        found = await self._session.get_one(RevisionRow, (tenant, row.model, row.revision))
        return Revision.model_validate(found.spec)

    async def current(self, tenant: TenantId) -> dict[str, Revision]:
        """What each of the tenant's deployments is now, by model."""
        query = select(RevisionRow).join(
            DeploymentRow,
            (DeploymentRow.tenant == RevisionRow.tenant)
            & (DeploymentRow.model == RevisionRow.model)
            & (DeploymentRow.revision == RevisionRow.revision),
        )
        rows = await self._session.scalars(query.where(RevisionRow.tenant == tenant, DeploymentRow.deleted.is_(False)))
        return {row.model: Revision.model_validate(row.spec) for row in rows}

    async def traffic(self, tenant: TenantId, model: str) -> TrafficRow:
        """Raises NoResultFound: every deployment has its row."""
        return await self._session.get_one(TrafficRow, (tenant, model))

    async def replicas(self, tenant: TenantId, model: str, cluster: str) -> Sequence[ReplicaRow]:
        query = select(ReplicaRow).where(ReplicaRow.tenant == tenant, ReplicaRow.model == model)
        return (await self._session.scalars(query.where(ReplicaRow.cluster == cluster))).all()

    async def forget_replica(self, tenant: TenantId, row: ReplicaRow) -> None:
        query = delete(ReplicaRow).where(ReplicaRow.tenant == tenant, ReplicaRow.model == row.model)
        query = query.where(ReplicaRow.cluster == row.cluster, ReplicaRow.host_id == row.host_id)
        await self._session.execute(query.where(ReplicaRow.version == row.version))
