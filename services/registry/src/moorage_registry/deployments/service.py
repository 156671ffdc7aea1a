"""Deployments: what runs of a model, and how its traffic is split."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from moorage_common.contracts.names import TenantId
from moorage_common.contracts.rollouts import FeedbackPolicy
from moorage_common.contracts.tensors import Signature
from moorage_common.errors import Conflict, NotFound, Unprocessable
from moorage_registry.catalog.code import check_allowed, check_isolation
from moorage_registry.catalog.repository import CatalogRepository
from moorage_registry.catalog.service import no_model
from moorage_registry.catalog.tables import ModelRow, VersionRow
from moorage_registry.deployments import plan, quota, sharing
from moorage_registry.deployments.models import (
    Change,
    Deployment,
    DeploymentSpec,
    FeaturesSpec,
    PlacedVersion,
    Revision,
    Traffic,
    TrafficChange,
)
from moorage_registry.deployments.repository import DeploymentRepository
from moorage_registry.deployments.resources import most_milli
from moorage_registry.deployments.sharing import Sharing
from moorage_registry.deployments.tables import DeploymentRow, RevisionRow, TrafficRow
from moorage_registry.rings.repository import RingRepository
from moorage_registry.rollouts.repository import RolloutRepository
from moorage_registry.tenants.repository import TenantRepository
from moorage_registry.tenants.service import limits_of
from moorage_registry.tenants.tables import TenantRow
from moorage_registry.work import Work


def no_deployment(model: str) -> NotFound:
    return NotFound(f"{model} is not deployed; PUT /v1/deployments/{model} deploys it", code="deployment_not_found")


def traffic_of(row: TrafficRow) -> Traffic:
    told = sharing.sharing_of(row)
    sticky = sharing.stickiness_of(told.sticky) if told.sticky is not None else None
    return Traffic(
        revision=row.revision, owner=row.owner, arms=list(told.arms), stickiness=sticky, rings=list(told.rings)
    )


@dataclass(frozen=True)
class DeploymentReader:
    """What a tenant's deployments are."""

    session: AsyncSession
    tenant: TenantId

    async def get(self, model: str) -> Deployment:
        """Raises NotFound."""
        return await self.told(await self.live(model))

    async def all(self) -> list[Deployment]:
        return [await self.told(row) for row in await DeploymentRepository(self.session).all(self.tenant)]

    async def traffic(self, model: str) -> Traffic:
        """Raises NotFound."""
        await self.live(model)
        return traffic_of(await DeploymentRepository(self.session).traffic(self.tenant, model))

    async def live(self, model: str) -> DeploymentRow:
        """The row of a deployment that is not deleted. Raises NotFound."""
        row = await DeploymentRepository(self.session).get(self.tenant, model)
        if row is None or row.deleted:
            raise no_deployment(model)
        return row

    async def told(self, row: DeploymentRow) -> Deployment:
        rows = DeploymentRepository(self.session)
        revision = await rows.revision(self.tenant, row)
        return Deployment(
            model=row.model,
            revision=row.revision,
            versions=revision.versions,
            features=revision.features,
            deadline_ms=revision.deadline_ms,
            policy=revision.policy,
            feedback=revision.feedback,
            traffic=traffic_of(await rows.traffic(self.tenant, row.model)),
            created_at=row.created_at,
            updated_at=row.updated_at,
        )


@dataclass(frozen=True)
class Planned:
    """What applying a spec comes to. `row` is None where the model was never deployed."""

    owner: ModelRow
    row: DeploymentRow | None
    traffic: TrafficRow | None
    before: Revision | None
    after: Revision
    sharing_before: Sharing
    sharing_after: Sharing

    def changes(self) -> list[Change]:
        told = plan.comparable(self.before, self.sharing_before.comparable())
        return plan.differences(told, plan.comparable(self.after, self.sharing_after.comparable()))


@dataclass(frozen=True)
class Planner:
    """Decides what a spec comes to, changing nothing."""

    session: AsyncSession
    tenant: TenantId

    async def plan(self, model: str, spec: DeploymentSpec, *, lock: bool) -> Planned:
        """Raises NotFound, Conflict, Unprocessable, Forbidden.

        Args:
            lock: hold the tenant's and the model's row until the transaction ends, to write what was planned.
        """
        catalog, rows = CatalogRepository(self.session), DeploymentRepository(self.session)
        # The quota is the tenant's: held while it is counted, so that no two models pass it together.
        tenant = await TenantRepository(self.session).get(self.tenant, lock=lock)
        owner = await catalog.model(self.tenant, model, lock=lock)
        if owner is None:
            raise no_model(model)
        versions = await catalog.versions(self.tenant, model)
        states = {v.number: v.state for v in versions}
        after = plan.settle(spec, model, states)
        await self.check(tenant, model, versions, after)
        row = await rows.get(self.tenant, model)
        traffic = await rows.traffic(self.tenant, model) if row is not None else None
        before = await rows.revision(self.tenant, row) if row is not None and not row.deleted else None
        shared = sharing.sharing_of(traffic) if traffic is not None else Sharing()
        becomes = sharing.settle(spec, model, versions, after, shared, known=await self.rings(spec))
        if traffic is not None:
            _check_owner(model, traffic, spec, after, becomes.sticky != shared.sticky)
        return Planned(owner, row, traffic, before, after, shared, becomes)

    async def rings(self, asked: DeploymentSpec | TrafficChange) -> set[str]:
        """Names of the rings there are; not looked up where none is asked for."""
        return await RingRepository(self.session).names(self.tenant) if asked.rings else set()

    async def check(
        self, tenant: TenantRow | None, model: str, versions: Sequence[VersionRow], after: Revision
    ) -> None:
        """Whether the tenant may have `after`, of the model's `versions`. Raises Unprocessable, Forbidden."""
        held = [v for v in versions if v.number in after.numbers()]
        formats = {v.number: v.format for v in held}
        await check_allowed(self.session, self.tenant, formats.values())
        check_isolation(formats, {v.version: v.isolation for v in after.versions})
        _check_pooled(after.versions)
        _check_features(after.features, held)
        _check_feedback(after.feedback, held)
        await self.check_quota(tenant, model, after)

    async def check_quota(self, tenant: TenantRow | None, model: str, after: Revision) -> None:
        """Raises Unprocessable when the most that the tenant's deployments may run is more than its share."""
        if tenant is None:
            return
        current = await DeploymentRepository(self.session).current(self.tenant) | {model: after}
        placed = [(name, version) for name, revision in current.items() for version in revision.versions]
        sizes: dict[tuple[str, int], int] = {}
        if any(version.isolation == "pooled" for _, version in placed):
            sizes = await CatalogRepository(self.session).version_bytes(self.tenant)
        quota.check(
            quota.growth([quota.Counted(one, sizes.get((name, one.version), 0)) for name, one in placed]),
            limits_of(tenant),
        )


def _check_pooled(versions: Sequence[PlacedVersion]) -> None:
    """Raises Unprocessable for a pooled version that asks for a GPU."""
    wrong = next((v.version for v in versions if v.isolation == "pooled" and most_milli(v.resources)), None)
    if wrong is not None:
        message = (
            f"version {wrong} asks for a GPU, which a process shared by many models does not have; "
            "set its isolation to dedicated, or gpu_milli to 0"
        )
        raise Unprocessable(message, code="pooled_without_gpu")


def _check_owner(
    model: str, traffic: TrafficRow, spec: DeploymentSpec, after: Revision, sticks_otherwise: bool
) -> None:
    if traffic.owner == plan.MANUAL:
        return
    used = {int(arm["version"]) for arm in [*traffic.arms, *traffic.rings]}
    is_moved = spec.traffic is not None or "rings" in spec.model_fields_set or sticks_otherwise
    if is_moved or not used <= set(after.numbers()):
        raise _owned(model, traffic.owner)


def _owned(model: str, owner: str) -> Conflict:
    message = (
        f"{owner} of {model} owns the traffic while it runs; wait until it is done, or end it with "
        f"`moorage rollout abort {model}`"
    )
    return Conflict(message, code="traffic_owned")


def _check_features(features: FeaturesSpec | None, versions: Sequence[VersionRow]) -> None:
    needed = {entity for v in versions for entity in v.feature_entities}
    mapped = set(features.entity) if features is not None else set()
    if needed - mapped:
        names = ", ".join(sorted(needed - mapped))
        message = f"these versions join features by {names}: map each to an input under features.entity"
        raise Unprocessable(message, code="features_not_mapped")
    if mapped - needed:
        names = ", ".join(sorted(mapped - needed))
        message = f"no version of the deployment joins features by {names}; push one with a feature service, or drop it"
        raise Unprocessable(message, code="features_not_declared")


def _check_feedback(feedback: FeedbackPolicy | None, versions: Sequence[VersionRow]) -> None:
    """Raises Unprocessable for a version whose answers labels could never be held against."""
    if feedback is None or not feedback.output:
        return
    for version in versions:
        given = [output.name for output in Signature.model_validate(version.signature).outputs]
        if feedback.output not in given:
            message = (
                f"version {version.number} has no output {feedback.output!r} to hold labels against; "
                f"set feedback.output to one of {', '.join(given)}"
            )
            raise Unprocessable(message, code="feedback_output_unknown")


@dataclass(frozen=True)
class DeploymentService:
    """Changes the deployments of the tenant that `work` is for."""

    work: Work

    @property
    def _rows(self) -> DeploymentRepository:
        return DeploymentRepository(self.work.session)

    async def apply(self, model: str, spec: DeploymentSpec) -> Deployment:
        """Make the deployment what `spec` says; an equal spec changes nothing. Raises as `Planner.plan` does."""
        planned = await Planner(self.work.session, self.work.tenant).plan(model, spec, lock=True)
        changes = planned.changes()
        row = planned.row
        if row is None:
            row = self._first_rows(model)
            await self._rows.flush()
        if planned.before != planned.after:
            await self.new_revision(row, planned.after, changes)
        traffic = await self._rows.traffic(self.work.tenant, model)
        if planned.sharing_before != planned.sharing_after:
            self.share(traffic, planned.sharing_after)
        if changes or planned.sharing_before != planned.sharing_after:
            await RolloutRepository(self.work.session).forget_leaving(self.work.tenant, model)
            planned.owner.revision += 1
            self.work.touch("model", model)
        await self._rows.flush()
        return await DeploymentReader(self.work.session, self.work.tenant).told(row)

    async def set_traffic(self, model: str, change: TrafficChange) -> Traffic:
        """Raises NotFound, Unprocessable; Conflict when a rollout owns it or `revision` has passed."""
        catalog = CatalogRepository(self.work.session)
        if change.rings:  # so that none of them goes meanwhile (RingService)
            await TenantRepository(self.work.session).get(self.work.tenant, lock=True)
        owner = await catalog.model(self.work.tenant, model, lock=True)
        row = await DeploymentReader(self.work.session, self.work.tenant).live(model)
        assert owner is not None  # noqa: S101 - a deployment has a model
        traffic = await self._rows.traffic(self.work.tenant, model)
        if traffic.owner != plan.MANUAL:
            raise _owned(model, traffic.owner)
        if change.revision is not None and change.revision != traffic.revision:
            message = (
                f"the traffic of {model} is at revision {traffic.revision}, not {change.revision}: "
                "somebody changed it; read it again and decide anew"
            )
            raise Conflict(message, code="traffic_changed")
        versions = await catalog.versions(self.work.tenant, model)
        revision = await self._rows.revision(self.work.tenant, row)
        rings = await Planner(self.work.session, self.work.tenant).rings(change)
        before = sharing.sharing_of(traffic)
        becomes = sharing.settle(change, model, versions, revision, before, known=rings)
        if becomes != before:
            self.share(traffic, becomes)
            owner.revision += 1
            self.work.touch("model", model)
        return traffic_of(traffic)

    async def delete(self, model: str) -> None:
        """Stop everything and route nothing. Raises NotFound; Conflict while a rollout runs."""
        owner = await CatalogRepository(self.work.session).model(self.work.tenant, model, lock=True)
        row = await DeploymentReader(self.work.session, self.work.tenant).live(model)
        assert owner is not None  # noqa: S101 - a deployment has a model
        traffic = await self._rows.traffic(self.work.tenant, model)
        if traffic.owner != plan.MANUAL:
            raise _owned(model, traffic.owner)
        await RolloutRepository(self.work.session).forget_leaving(self.work.tenant, model)
        row.deleted = True
        row.updated_at = self.work.now
        sharing.write(traffic, Sharing())
        owner.revision += 1
        self.work.touch("model", model)
        self.work.happened("deployment.deleted", f"deployments/{model}", row.revision, revision=row.revision)

    def _first_rows(self, model: str) -> DeploymentRow:
        now = self.work.now
        row = DeploymentRow(model=model, revision=0, deleted=True, created_at=now, updated_at=now)
        self._rows.add(self.work.tenant, row)
        traffic = TrafficRow(model=model, arms=[], stickiness=None, rings=[], owner=plan.MANUAL, revision=0)
        self._rows.add(self.work.tenant, traffic)
        return row

    async def new_revision(self, row: DeploymentRow, after: Revision, changes: list[Change]) -> None:
        """Make the deployment `after`, which nobody has checked here. The caller has the model published."""
        work = self.work
        row.revision += 1
        row.deleted = False
        row.updated_at = work.now
        revision = RevisionRow(
            model=row.model,
            revision=row.revision,
            spec=after.model_dump(mode="json"),
            created_at=work.now,
            created_by=work.actor,
        )
        self._rows.add(work.tenant, revision)
        paths = [change.path for change in changes]
        subject = f"deployments/{row.model}"
        work.happened("deployment.changed", subject, row.revision, revision=row.revision, changed=paths)

    def share(self, traffic: TrafficRow, becomes: Sharing) -> None:
        """Let the traffic be so, which nobody has checked here. The caller has the model published."""
        sharing.write(traffic, becomes)
        sticky = sharing.stickiness_of(becomes.sticky).model_dump() if becomes.sticky is not None else None
        self.work.happened(
            "traffic.changed",
            f"deployments/{traffic.model}",
            traffic.revision,
            revision=traffic.revision,
            arms=traffic.arms,
            stickiness=sticky,
            rings=traffic.rings,
        )
