"""Starting rollouts, and what people do to those that run."""

from collections.abc import Sequence
from dataclasses import dataclass

from moorage_common.contracts.desired import Status
from moorage_common.contracts.request_id import new_ulid
from moorage_common.contracts.rollouts import FINAL, RolloutPolicy
from moorage_common.contracts.routes import Arm
from moorage_common.contracts.tensors import CODE_FORMATS
from moorage_common.errors import Conflict, NotFound, Unprocessable
from moorage_registry.catalog.repository import CatalogRepository
from moorage_registry.catalog.service import no_model
from moorage_registry.catalog.tables import ModelRow, VersionRow
from moorage_registry.deployments import plan
from moorage_registry.deployments.models import VERSIONS_MAX, PlacedVersion, Revision
from moorage_registry.deployments.repository import DeploymentRepository
from moorage_registry.deployments.service import DeploymentReader, DeploymentService, Planner
from moorage_registry.deployments.sharing import check_entity, sharing_of
from moorage_registry.deployments.tables import DeploymentRow, TrafficRow
from moorage_registry.rings.repository import RingRepository
from moorage_registry.rollouts import chain, facts, sentences
from moorage_registry.rollouts.capacity import Capacity, asks, candidate_needs
from moorage_registry.rollouts.entries import BASELINE
from moorage_registry.rollouts.models import NewRollout, Rollout
from moorage_registry.rollouts.moves import Judged, Moves
from moorage_registry.rollouts.reading import RolloutReader, rollout_of
from moorage_registry.rollouts.repository import RolloutRepository
from moorage_registry.rollouts.tables import RolloutRow
from moorage_registry.rollouts.weights import guard_of
from moorage_registry.tenants.repository import TenantRepository
from moorage_registry.tenants.tables import TenantRow
from moorage_registry.work import Work

BASELINE_LABELS = 2000
"""Labels of stable from before the start that the judge compares with."""


def running(model: str, owner: str) -> Conflict:
    message = (
        f"{owner} of {model} is running; wait until it is done, or end it with `moorage rollout abort {model}` first"
    )
    return Conflict(message, code="rollout_running")


def stable_of(model: str, arms: Sequence[Arm], candidate: int) -> int:
    """The version whose traffic is taken over. Raises Unprocessable, Conflict."""
    weighted = [arm.version for arm in arms if arm.role != "shadow" and arm.weight_bp > 0]
    others = [version for version in weighted if version != candidate]
    if not others:
        message = f"version {candidate} has all the traffic of {model} already; name another version to roll out"
        raise Unprocessable(message, code="rollout_to_itself")
    if len(others) > 1:
        message = (
            f"the traffic of {model} is split among versions {', '.join(map(str, sorted(others)))}, so there is none "
            f"to compare with; send all of it to one with `moorage traffic set {model}` first"
        )
        raise Conflict(message, code="traffic_split")
    return others[0]


@dataclass(frozen=True)
class _Parties:
    """Who takes part, and the rows that change, the model's locked."""

    tenant: TenantRow | None
    owner: ModelRow
    deployment: DeploymentRow
    traffic: TrafficRow
    versions: Sequence[VersionRow]
    revision: Revision
    stable: PlacedVersion
    candidate: int
    held: PlacedVersion | None


@dataclass(frozen=True)
class RolloutService:
    """Changes the rollouts of the tenant that `work` is for."""

    work: Work

    @property
    def _rows(self) -> RolloutRepository:
        return RolloutRepository(self.work.session)

    async def start(self, model: str, wanted: NewRollout, status: Status) -> Rollout:
        """Start one. `status` is the scheduler's last report of the model.

        Raises:
            NotFound: model, deployment, version or a ring of the policy.
            Conflict: another runs (`rollout_running`), `version_rejected`, `stable_not_ready`, `traffic_split`.
            Unprocessable: `rollout_to_itself`, `shadow_of_code`, a quota, or features that are not mapped.
            Forbidden: the version is code, which the tenant may not run.
        """
        parties = await self._parties(model, wanted)
        policy = wanted.policy or parties.revision.policy or RolloutPolicy()
        await self._check(parties, policy)
        candidate, hosts = await self._place(model, parties, policy.candidate_hosts)
        row = self._new_row(parties, policy, await self._capacity(parties, candidate, hosts, policy, status))
        row.stable_before = parties.stable.model_dump(mode="json")
        self._rows.add(row)
        await self._rows.flush()
        moves = Moves(self.work, parties.owner, row, policy, Judged.last(row))
        await moves.begin(BASELINE, sentences.started(row.stable, row.candidate, policy), "started")
        await self._rows.flush()
        return rollout_of(row)

    async def pause(self, model: str, rollout: str) -> Rollout:
        """Have it go no further. Raises NotFound, Conflict."""
        moves = await self._moves(model, rollout)
        if moves.row.state == "paused":
            raise Conflict(f"the rollout of {model} is paused already", code="rollout_paused")
        if moves.row.state == "guarded":
            message = (
                f"version {moves.row.candidate} of {model} is promoted, so there is no step to pause; "
                f"`moorage rollout abort {model}` sends all traffic back to version {moves.row.stable}"
            )
            raise Conflict(message, code="rollout_promoted")
        moves.pause(f"{self.work.actor} paused it")
        return await self._told(moves)

    async def resume(self, model: str, rollout: str) -> Rollout:
        """Have it go on. Raises NotFound, Conflict."""
        moves = await self._moves(model, rollout)
        if moves.row.state != "paused":
            message = f"the rollout of {model} is not paused but {moves.row.state}: {moves.row.reason}"
            raise Conflict(message, code="rollout_not_paused")
        moves.resume(f"{self.work.actor} had it go on")
        return await self._told(moves)

    async def promote(self, model: str, rollout: str, status: Status) -> Rollout:
        """Begin the guard now, whatever evidence there is. Raises NotFound, Conflict."""
        moves = await self._moves(model, rollout)
        row = moves.row
        if row.step >= guard_of(moves.policy):
            message = f"version {row.candidate} of {model} is promoted already; the guard ends by itself"
            raise Conflict(message, code="rollout_promoted")
        if not facts.ready(status, row.candidate):
            message = f"no replica of version {row.candidate} is ready, so it cannot be promoted; see `moorage status`"
            raise Conflict(message, code="candidate_not_ready")
        await moves.begin(guard_of(moves.policy), f"{self.work.actor} promoted version {row.candidate}", "promoted")
        return await self._told(moves)

    async def abort(self, model: str, rollout: str) -> Rollout:
        """All traffic to stable again. Raises NotFound, Conflict."""
        moves = await self._moves(model, rollout)
        await moves.back(sentences.back(moves.row.stable, f"{self.work.actor} aborted it"), "aborted")
        return await self._told(moves)

    async def _moves(self, model: str, rollout: str) -> Moves:
        """Of one that runs, its model's row locked. Raises NotFound, Conflict."""
        owner = await CatalogRepository(self.work.session).model(self.work.tenant, model, lock=True)
        if owner is None:
            raise no_model(model)
        row = await RolloutReader(self.work.session, self.work.tenant).row(model, rollout)
        if row.state in FINAL:
            message = f"the rollout {row.id} of {model} is over ({row.state}); start another one"
            raise Conflict(message, code="rollout_over")
        policy = RolloutPolicy.model_validate(row.policy)
        return Moves(self.work, owner, row, policy, Judged.last(row))

    async def _told(self, moves: Moves) -> Rollout:
        await self._rows.flush()
        return rollout_of(moves.row)

    async def _parties(self, model: str, wanted: NewRollout) -> _Parties:
        work, catalog, rows = self.work, CatalogRepository(self.work.session), DeploymentRepository(self.work.session)
        tenant = await TenantRepository(work.session).get(work.tenant, lock=True)
        owner = await catalog.model(work.tenant, model, lock=True)
        if owner is None:
            raise no_model(model)
        deployment = await DeploymentReader(work.session, work.tenant).live(model)
        traffic = await rows.traffic(work.tenant, model)
        if traffic.owner != plan.MANUAL:
            raise running(model, traffic.owner)
        await self._end_leaving(owner)
        versions = await catalog.versions(work.tenant, model)
        states = {version.number: version.state for version in versions}
        candidate = plan.settle_number(wanted.to, model, states)
        stable = stable_of(model, [Arm.model_validate(arm) for arm in traffic.arms], candidate)
        if states[stable] != "ready":
            message = f"version {stable} of {model}, which has the traffic, is {states[stable]}: wait until it is ready"
            raise Conflict(message, code="stable_not_ready")
        revision = await rows.revision(work.tenant, deployment)
        by_number = {one.version: one for one in revision.versions}
        if candidate not in by_number and len(by_number) >= VERSIONS_MAX:
            message = f"the deployment holds {len(by_number)} versions, the most there may be; remove one from it first"
            raise Unprocessable(message, code="too_many_versions")
        return _Parties(
            tenant, owner, deployment, traffic, versions, revision, by_number[stable], candidate,
            by_number.get(candidate),
        )  # fmt: skip

    async def _end_leaving(self, owner: ModelRow) -> None:
        """What the rollout before left behind goes now."""
        row = await self._rows.leaving(self.work.tenant, owner.name)
        if row is not None:
            policy = RolloutPolicy.model_validate(row.policy)
            await Moves(self.work, owner, row, policy, Judged.last(row)).leave()
            await self._rows.flush()

    async def _check(self, parties: _Parties, policy: RolloutPolicy) -> None:
        """Raises NotFound where a step's ring is none; Unprocessable where copies would go to code, or keys nowhere."""
        named = {step.ring for step in policy.steps if step.ring is not None}
        missing = sorted(named - await RingRepository(self.work.session).names(self.work.tenant)) if named else []
        if missing:
            message = f"there is no ring {missing[0]}; make it with `moorage rings set {missing[0]}`"
            raise NotFound(message, code="ring_not_found")
        versions = {row.number: row for row in parties.versions}
        candidate, stable = versions[parties.candidate], versions[parties.stable.version]
        copies_to = {candidate.format} if any(step.shadow for step in policy.steps) else set()
        if policy.quality.on and policy.quality.paired_pct:
            copies_to.add(stable.format)
        if copies_to & CODE_FORMATS:
            message = (
                "the policy copies requests to a version that is code, which acts on copies as on the requests "
                "themselves; leave out steps with a shadow and quality.paired_pct"
            )
            raise Unprocessable(message, code="shadow_of_code")
        check_entity(sharing_of(parties.traffic).sticky, [stable, candidate], parties.revision.features)

    async def _place(self, model: str, parties: _Parties, hosts: int) -> tuple[PlacedVersion, int]:
        """Add the candidate with as many replicas to start with as the quota has room for; those."""
        planner = Planner(self.work.session, self.work.tenant)
        others = [one for one in parties.revision.versions if one.version != parties.candidate]
        options = asks(parties.stable, parties.held, parties.candidate, hosts)
        for number, (placed, count) in enumerate(options, start=1):
            versions = sorted([*others, placed], key=lambda one: one.version)
            after = parties.revision.model_copy(update={"versions": versions})
            try:
                await planner.check(parties.tenant, model, parties.versions, after)
            except Unprocessable as error:
                if number == len(options) or not (error.code or "").endswith("_quota"):
                    raise
                continue
            if after != parties.revision:
                changes = plan.differences(plan.comparable(parties.revision, {}), plan.comparable(after, {}))
                await DeploymentService(self.work).new_revision(parties.deployment, after, changes)
            return placed, count
        raise AssertionError  # there is always an option

    async def _capacity(
        self, parties: _Parties, candidate: PlacedVersion, hosts: int, policy: RolloutPolicy, status: Status
    ) -> Capacity:
        scaling = parties.stable.scaling
        seen = min(facts.ready(status, parties.stable.version), scaling.max)
        stable = max(seen, scaling.min, 1)
        most = max(candidate.scaling.max, hosts)
        bare = Capacity(stable=stable, candidate=hosts, start=stable, hosts=hosts, most=most)
        both = (parties.stable.version, candidate.version)
        return bare.model_copy(
            update={
                "candidate": candidate_needs(policy, bare, BASELINE),
                "settled_from": await self._rows.settled_before(self.work.tenant, parties.owner.name, BASELINE_LABELS),
                "failed_before": facts.failed_hosts(status, candidate.version),
                "restarts_before": facts.restarts_of(status, both),
            }
        )

    def _new_row(self, parties: _Parties, policy: RolloutPolicy, capacity: Capacity) -> RolloutRow:
        work, told, shared = self.work, policy.model_dump(mode="json"), sharing_of(parties.traffic)
        return RolloutRow(
            id=new_ulid(),
            tenant=work.tenant,
            model=parties.owner.name,
            stable=parties.stable.version,
            candidate=parties.candidate,
            policy=told,
            policy_hash=chain.digest(told),
            state="pending",
            resumes_as="",
            reason="",
            step=BASELINE,
            step_began_at=work.now,
            started_at=work.now,
            started_by=work.actor,
            finished_at=None,
            stable_before={},
            candidate_before=parties.held.model_dump(mode="json") if parties.held is not None else None,
            traffic_before={
                "arms": [arm.model_dump(mode="json") for arm in shared.arms],
                "rings": [ring.model_dump(mode="json") for ring in shared.rings],
            },
            capacity=capacity.model_dump(mode="json"),
            outlook={},
            leaves_at=None,
            head="",
            seq=0,
            verdicts=0,
        )
