"""Removing all that a tenant has, in short transactions. What is left is in the rows, so whoever comes next goes on.

Each step may be done any number of times and stops anywhere: a process killed between two statements leaves rows, and
rows are removed by the next round. Ledger, audit trail, events and the tenant's own row stay.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import nats.js.errors
from sqlalchemy import ColumnElement, delete, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from moorage_common.bus import BUS_ERRORS, Bus
from moorage_common.contracts.names import STREAM_FEEDBACK, STREAM_SIGNALS, TenantId, feedback_subject, signals_subject
from moorage_common.db import Base
from moorage_common.errors import Unavailable
from moorage_registry.catalog.blobs import BlobStore
from moorage_registry.catalog.feature_services import FeatureServices
from moorage_registry.catalog.repository import CatalogRepository
from moorage_registry.catalog.tables import ArtifactRow, ModelRow, VersionRow
from moorage_registry.deployments import plan
from moorage_registry.deployments.repository import DeploymentRepository
from moorage_registry.deployments.service import DeploymentService
from moorage_registry.deployments.tables import DeploymentRow, ReplicaRow, RevisionRow, TrafficRow
from moorage_registry.feedback.repository import FeedbackRepository
from moorage_registry.feedback.tables import FeedbackCountRow, LabelRow, OutputRow
from moorage_registry.keys.service import KeyService
from moorage_registry.keys.tables import KeyRow
from moorage_registry.people.tables import MembershipRow
from moorage_registry.rings.tables import RingRow
from moorage_registry.rollouts.repository import RolloutRepository
from moorage_registry.rollouts.tables import RolloutEntryRow, RolloutReadRow, RolloutRow, RolloutVerdictRow
from moorage_registry.tenants.repository import TenantRepository
from moorage_registry.usage.tables import ReservationRow
from moorage_registry.work import Work, Works

ACTOR = "deletion"
"""In the audit log: who removed it."""
HOSTS_S = 60.0
"""How long hosts get to stop before what they serve is removed. Nobody can call them by then."""
KEYS_STAY_S = 86_400.0
"""Revoked keys stay for so long, so that no older record of one is taken for the truth."""
PAGE = 500

_OF_ROLLOUTS: tuple[type[RolloutEntryRow | RolloutVerdictRow | RolloutReadRow], ...] = (
    RolloutEntryRow, RolloutVerdictRow, RolloutReadRow,
)  # fmt: skip
_ORDER: tuple[type[Base], ...] = (
    *_OF_ROLLOUTS, RolloutRow, TrafficRow, RevisionRow, DeploymentRow, ReplicaRow, VersionRow, ModelRow, ArtifactRow,
    OutputRow, LabelRow, FeedbackCountRow, RingRow, MembershipRow, ReservationRow,
)  # fmt: skip
"""Rows that go, those that refer to others first."""
_TOLD: dict[str, type[Base]] = {
    "models": ModelRow, "versions": VersionRow, "artifacts": ArtifactRow, "rollouts": RolloutRow, "outputs": OutputRow,
    "labels": LabelRow, "rings": RingRow, "members": MembershipRow, "replicas": ReplicaRow,
}  # fmt: skip

Goes = Callable[[], bool]
"""Whether to go on: another may have taken over."""


class Waits(Exception):
    """What the deletion cannot go on without; it is tried again."""


def _of(table: type[Base], tenant: TenantId) -> ColumnElement[bool]:
    """Rows of the table that are the tenant's."""
    columns = table.__table__.c
    if table in _OF_ROLLOUTS:
        return columns.rollout.in_(select(RolloutRow.id).where(RolloutRow.tenant == tenant))
    return columns.tenant == tenant


async def remains(session: AsyncSession, tenant: TenantId) -> dict[str, int]:
    """How much there still is to remove, by kind; kinds of which nothing is left are not named."""
    counted: dict[str, tuple[type[Base], ColumnElement[bool]]] = {
        "keys": (KeyRow, (KeyRow.tenant == tenant) & KeyRow.revoked_at.is_(None)),
        "deployments": (DeploymentRow, (DeploymentRow.tenant == tenant) & DeploymentRow.deleted.is_(False)),
        **{name: (table, _of(table, tenant)) for name, table in _TOLD.items()},
    }
    found = {}
    for name, (table, condition) in counted.items():
        count = await session.scalar(select(func.count()).select_from(table).where(condition))
        if count:
            found[name] = int(count)
    return found


@dataclass(frozen=True)
class Removal:
    """Does the steps, in the order that lets nobody see half of them."""

    works: Works
    bus: Bus
    blobs: BlobStore
    features: FeatureServices
    pepper: str

    async def __call__(self, tenant: TenantId, goes_on: Goes) -> None:
        """All steps of a tenant that is being deleted; it is deleted then. Raises Waits, and what steps raise."""
        steps: tuple[Callable[[TenantId, Goes], Awaitable[None]], ...] = (
            self._revoke_keys, self._undeploy, self._wait_for_hosts, self._remove_features, self._purge_streams,
            self._remove_rows, self._remove_blobs, self._finish,
        )  # fmt: skip
        for step in steps:
            if not goes_on():
                return
            await step(tenant, goes_on)

    async def sweep(self, tenant: TenantId, goes_on: Goes) -> None:
        """What came of a deleted tenant after all, and its dead keys once nobody can know them."""
        await self._remove_rows(tenant, goes_on)
        await self._remove_blobs(tenant, goes_on)
        dead = (KeyRow.tenant == tenant) & (KeyRow.revoked_at < self.works.clock() - KEYS_STAY_S)
        async with self.works.db.write() as session:
            await session.execute(delete(KeyRow).where(dead))

    async def _revoke_keys(self, tenant: TenantId, goes_on: Goes) -> None:
        query = select(KeyRow.kid).where(KeyRow.tenant == tenant, KeyRow.revoked_at.is_(None)).limit(PAGE)
        while goes_on():
            async with self.works.begin(tenant, ACTOR) as work:
                kids = list(await work.session.scalars(query))
                for kid in kids:
                    await KeyService(work, self.pepper).revoke(kid)
            if not kids:
                return

    async def _undeploy(self, tenant: TenantId, goes_on: Goes) -> None:
        async with self.works.db.read() as session:
            live = [row.model for row in await DeploymentRepository(session).all(tenant)]
        for model in live:
            if not goes_on():
                return
            async with self.works.begin(tenant, ACTOR) as work:
                await _stop(work, model)

    async def _wait_for_hosts(self, tenant: TenantId, _goes_on: Goes) -> None:
        async with self.works.db.read() as session:
            query = select(func.count()).select_from(ReplicaRow).where(ReplicaRow.tenant == tenant)
            running = await session.scalar(query) or 0
            row = await TenantRepository(session).get(tenant)
        asked_at = row.deletion["asked_at"] if row is not None and row.deletion is not None else 0.0
        if running and self.works.clock() < asked_at + HOSTS_S:
            raise Waits(f"{running} replicas are stopping")

    async def _remove_features(self, tenant: TenantId, _goes_on: Goes) -> None:
        await self.features.forget(tenant)

    async def _purge_streams(self, tenant: TenantId, _goes_on: Goes) -> None:
        """Labels and signals that nobody has read yet."""
        try:
            await self.bus.wait(1.0)
            for stream, subject in (
                (STREAM_FEEDBACK, feedback_subject(tenant, ">")), (STREAM_SIGNALS, signals_subject(tenant, ">")),
            ):  # fmt: skip
                try:
                    await self.bus.jetstream().purge_stream(stream, subject=subject)
                except nats.js.errors.NotFoundError:
                    continue
        except BUS_ERRORS as error:
            raise Unavailable("the bus does not answer", detail=str(error)) from error

    async def _remove_rows(self, tenant: TenantId, goes_on: Goes) -> None:
        for table in _ORDER:
            removed = PAGE
            while removed == PAGE:
                if not goes_on():
                    return
                async with self.works.begin(tenant, ACTOR) as work:
                    removed = await _remove_page(work, table)

    async def _remove_blobs(self, tenant: TenantId, _goes_on: Goes) -> None:
        await self.blobs.remove_all(tenant)

    async def _finish(self, tenant: TenantId, _goes_on: Goes) -> None:
        async with self.works.begin(tenant, ACTOR) as work:
            row = await TenantRepository(work.session).get(tenant, lock=True)
            left = await remains(work.session, tenant)
            if left:
                raise Waits(", ".join(f"{count} {kind}" for kind, count in left.items()) + " came meanwhile")
            if row is None or row.status != "deleting":
                return
            row.status = "deleted"
            row.version += 1
            row.deletion = {**(row.deletion or {}), "waits_for": ""}
            work.touch("limits", tenant)
            work.happened("tenant.deleted", f"tenants/{tenant}", row.version)


async def _remove_page(work: Work, table: type[Base]) -> int:
    """Remove at most PAGE of the tenant's rows; how many they were."""
    keys = list(table.__table__.primary_key)
    if table in (OutputRow, LabelRow, FeedbackCountRow):
        await FeedbackRepository(work.session).lock()
    query = select(*keys).where(_of(table, work.tenant)).limit(PAGE)
    found = [tuple(row) for row in await work.session.execute(query)]
    if found:
        await work.session.execute(
            delete(table).where(tuple_(*keys).in_(found)), execution_options={"synchronize_session": False}
        )
    if table is ModelRow:
        for _tenant, name in found:
            work.touch("model", name)
    return len(found)


async def _stop(work: Work, model: str) -> None:
    """Route nothing to the model and have its hosts stop, whatever rolls out."""
    owner = await CatalogRepository(work.session).model(work.tenant, model, lock=True)
    traffic = await DeploymentRepository(work.session).traffic(work.tenant, model)
    last = await RolloutRepository(work.session).last(work.tenant, model)
    if owner is None:
        return
    if last is not None and last.finished_at is None:
        last.state, last.reason, last.finished_at, last.leaves_at = "aborted", "its tenant is deleted", work.now, None
        last.seq += 1  # so that whoever judges it sees that it was moved
    traffic.owner = plan.MANUAL
    await DeploymentService(work).delete(model)
