"""Rows of models, versions and artifacts."""

from collections.abc import Sequence

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from moorage_common.contracts.names import TenantId
from moorage_common.db import insert_into
from moorage_registry.catalog.tables import ArtifactRow, ModelRow, VersionRow

PENDING = ("uploaded", "validating")


class CatalogRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add_artifact(self, tenant: TenantId, digest: str, size_bytes: int, now: float) -> bool:
        """False when the tenant has it already."""
        row = {"tenant": tenant, "digest": digest, "size_bytes": size_bytes, "created_at": now}
        insert = insert_into(self._session, ArtifactRow).values(row).on_conflict_do_nothing()
        return await self._session.scalar(insert.returning(ArtifactRow.digest)) is not None

    async def artifact(self, tenant: TenantId, digest: str) -> ArtifactRow | None:
        return await self._session.get(ArtifactRow, (tenant, digest))

    async def stored_bytes(self, tenant: TenantId) -> int:
        """Bytes of all the tenant's artifacts."""
        query = select(func.coalesce(func.sum(ArtifactRow.size_bytes), 0)).where(ArtifactRow.tenant == tenant)
        return int(await self._session.scalar(query) or 0)

    async def sizes(self, tenant: TenantId, digests: set[str]) -> dict[str, int]:
        """Bytes of each of the tenant's artifacts among `digests`."""
        query = select(ArtifactRow.digest, ArtifactRow.size_bytes)
        found = await self._session.execute(query.where(ArtifactRow.tenant == tenant, ArtifactRow.digest.in_(digests)))
        return dict(found.all())

    async def version_bytes(self, tenant: TenantId) -> dict[tuple[str, int], int]:
        """Bytes of the artifact of each of the tenant's versions, by model and number."""
        same = (ArtifactRow.tenant == VersionRow.tenant) & (ArtifactRow.digest == VersionRow.artifact_digest)
        query = select(VersionRow.model, VersionRow.number, ArtifactRow.size_bytes).join(ArtifactRow, same)
        found = await self._session.execute(query.where(VersionRow.tenant == tenant))
        return {(model, number): size_bytes for model, number, size_bytes in found}

    async def ensure_model(self, tenant: TenantId, name: str, now: float) -> ModelRow:
        """The model, made when absent, and locked."""
        row = {"tenant": tenant, "name": name, "last_version": 0, "revision": 0, "created_at": now}
        await self._session.execute(insert_into(self._session, ModelRow).values(row).on_conflict_do_nothing())
        model = await self.model(tenant, name, lock=True)
        assert model is not None  # noqa: S101 - just made
        return model

    async def model(self, tenant: TenantId, name: str, *, lock: bool = False) -> ModelRow | None:
        query = select(ModelRow).where(ModelRow.tenant == tenant, ModelRow.name == name)
        return await self._session.scalar(query.with_for_update() if lock else query)

    async def models(self, tenant: TenantId) -> Sequence[tuple[ModelRow, int | None]]:
        """Every model with its highest version that was not rejected, by name."""
        latest = func.max(VersionRow.number).filter(VersionRow.state != "rejected")
        query = (
            select(ModelRow, latest)
            .outerjoin(VersionRow, (VersionRow.tenant == ModelRow.tenant) & (VersionRow.model == ModelRow.name))
            .where(ModelRow.tenant == tenant)
            .group_by(ModelRow.tenant, ModelRow.name)
            .order_by(ModelRow.name)
        )
        return (await self._session.execute(query)).all()

    async def add_version(self, tenant: TenantId, row: VersionRow) -> None:
        row.tenant = tenant
        self._session.add(row)
        await self._session.flush()

    async def version(self, tenant: TenantId, model: str, number: int) -> VersionRow | None:
        return await self._session.get(VersionRow, (tenant, model, number))

    async def versions(self, tenant: TenantId, model: str) -> Sequence[VersionRow]:
        """By number."""
        query = select(VersionRow).where(VersionRow.tenant == tenant, VersionRow.model == model)
        return (await self._session.scalars(query.order_by(VersionRow.number))).all()

    async def equal_version(self, tenant: TenantId, model: str, content_digest: str) -> VersionRow | None:
        """The newest version of the same content."""
        query = select(VersionRow).where(VersionRow.tenant == tenant, VersionRow.model == model)
        query = query.where(VersionRow.content_digest == content_digest).order_by(VersionRow.number.desc())
        return await self._session.scalar(query.limit(1))

    async def mark_validating(self, tenant: TenantId, model: str, run_ids: set[str]) -> None:
        """The cluster has been asked to validate these versions."""
        change = update(VersionRow).where(VersionRow.tenant == tenant, VersionRow.model == model)
        await self._session.execute(
            change.where(VersionRow.run_id.in_(run_ids), VersionRow.state == "uploaded").values(state="validating")
        )
