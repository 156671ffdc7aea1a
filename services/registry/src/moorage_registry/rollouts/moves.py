"""What becomes of a rollout's rows when it moves: log entry, verdict, traffic and events, in one transaction.

The controller and people move rollouts by these alone. Whoever does holds the model's row locked, so that of two only
one goes first, and the other sees what it did.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from moorage_common.contracts.events import EventType
from moorage_common.contracts.rollouts import RolloutPolicy
from moorage_common.contracts.routes import Arm
from moorage_common.errors import Unprocessable
from moorage_registry.catalog.repository import CatalogRepository
from moorage_registry.catalog.tables import ModelRow
from moorage_registry.deployments import plan, sharing
from moorage_registry.deployments.models import PlacedVersion, Revision, RingArm
from moorage_registry.deployments.repository import DeploymentRepository
from moorage_registry.deployments.service import DeploymentService, Planner
from moorage_registry.deployments.sharing import Sharing
from moorage_registry.rollouts import chain
from moorage_registry.rollouts.capacity import Capacity, candidate_needs, smaller
from moorage_registry.rollouts.entries import Entry, StepEntry
from moorage_registry.rollouts.models import VerdictKind
from moorage_registry.rollouts.repository import RolloutRepository
from moorage_registry.rollouts.tables import RolloutEntryRow, RolloutRow, RolloutVerdictRow
from moorage_registry.rollouts.weights import arms_of, guard_of, weight_pct
from moorage_registry.tenants.repository import TenantRepository
from moorage_registry.work import Work

LEAVES_AFTER_S = 10.0
"""How long what ran goes on once the traffic has moved: what is in flight to the version that lost ends, and the
winner's replicas are counted by the load they have now."""

_EVENTS: dict[VerdictKind, EventType] = {
    "started": "rollout.started",
    "advanced": "rollout.advanced",
    "held": "rollout.held",
    "resumed": "rollout.resumed",
    "paused": "rollout.paused",
    "alerted": "rollout.alerted",
    "promoted": "rollout.promoted",
    "rolled_back": "rollout.rolled-back",
    "aborted": "rollout.aborted",
    "done": "rollout.done",
}


def owner_of(rollout: str) -> str:
    """The owner of the traffic while the rollout runs."""
    return f"rollout:{rollout}"


def entry_of(policy: RolloutPolicy, step: int) -> StepEntry:
    """What the judge is told when a step begins."""
    if not 0 <= step < guard_of(policy):
        return StepEntry(step=step, weight=weight_pct(policy, step))
    now = policy.steps[step]
    if now.ring is not None:
        return StepEntry(step=step, weight=now.weight, stratum_ring=now.ring)
    return StepEntry(step=step, weight=weight_pct(policy, step), shadow=now.shadow)


@dataclass(frozen=True)
class Judged:
    """The judge's evidence as told, plain JSON, after the log's entry `seq`."""

    evidence: dict[str, Any]
    seq: int

    @classmethod
    def last(cls, row: RolloutRow) -> "Judged":
        """As it was last stored."""
        return cls(row.outlook.get("evidence", {}), row.outlook.get("seq", 0))


def append(session: AsyncSession, row: RolloutRow, entry: Entry, at: float) -> None:
    """Add to the log what was seen, or what began."""
    row.seq += 1
    told = entry.model_dump(mode="json")
    session.add(RolloutEntryRow(rollout=row.id, seq=row.seq, at=at, kind=entry.kind, entry=told))


def settled_within(now: Revision, settled: Sequence[PlacedVersion]) -> list[PlacedVersion]:
    """The versions of `settled` as they are `now`, with no more replicas than in either."""
    held = {one.version: one for one in now.versions}
    return [
        held[one.version].model_copy(update={"scaling": smaller(held[one.version].scaling, one.scaling)})
        for one in settled
    ]


@dataclass(frozen=True)
class Moves:
    """Moves one rollout. `owner` is its model's row, locked; verdicts keep `judged`."""

    work: Work
    owner: ModelRow
    row: RolloutRow
    policy: RolloutPolicy
    judged: Judged
    given: list[VerdictKind] = field(default_factory=list)

    @property
    def _rows(self) -> RolloutRepository:
        return RolloutRepository(self.work.session)

    async def begin(self, step: int, sentence: str, kind: VerdictKind = "advanced") -> StepEntry:
        """Give the candidate the traffic of `step`. What the judge must be told too."""
        row = self.row
        entry = entry_of(self.policy, step)
        row.state = "guarded" if step >= guard_of(self.policy) else "baking" if step >= 0 else "pending"
        row.resumes_as, row.reason, row.step, row.step_began_at = "", sentence, step, self.work.now
        capacity = Capacity.model_validate(row.capacity)
        needs = candidate_needs(self.policy, capacity, step)
        row.capacity = capacity.model_copy(update={"candidate": needs}).model_dump(mode="json")
        shares = arms_of(self.policy, row.stable, row.candidate, step)
        named, before = {ring.ring for ring in shares.rings}, self._before()
        rings = [ring for ring in before.rings if ring.ring not in named]
        await self._set_traffic([*shares.arms, *before.arms], [*rings, *shares.rings], owner_of(row.id))
        self.verdict(kind, sentence, step=step, weight=entry.weight)
        append(self.work.session, row, entry, self.work.now)
        return entry

    def hold(self, sentence: str, signal: str = "") -> None:
        """Go no further until what the sentence says has passed. `signal` is the judge's, where one speaks for it."""
        if self.row.state != "hold":
            self.row.resumes_as = self.row.state
        self.row.state, self.row.reason = "hold", sentence
        if signal and signal not in self.row.outlook.get("held", []):
            self.row.outlook = {**self.row.outlook, "held": [*self.row.outlook.get("held", []), signal]}
        self.verdict("held", sentence, **({"signal": signal} if signal else {}))

    def pause(self, sentence: str) -> None:
        """Go no further until a person says so."""
        if self.row.state != "hold":
            self.row.resumes_as = self.row.state
        self.row.state, self.row.reason = "paused", sentence
        self.verdict("paused", sentence)

    def resume(self, sentence: str) -> None:
        """Go on from where it held or was paused."""
        self.row.state, self.row.resumes_as = self.row.resumes_as or "pending", ""
        self.row.reason = sentence
        self.verdict("resumed", sentence)

    def alert(self, signal: str, sentence: str) -> None:
        """Tell people, once a signal."""
        self.row.outlook = {**self.row.outlook, "alerted": [*self.row.outlook.get("alerted", []), signal]}
        self.verdict("alerted", sentence, signal=signal)

    async def back(self, sentence: str, kind: VerdictKind, **detail: Any) -> None:
        """All traffic to stable again, for good: `rolled_back`, or `aborted` by a person."""
        await self._end(kind, self.row.stable, sentence)
        self.verdict(kind, sentence, **detail)

    async def finish(self, sentence: str) -> None:
        """The candidate is what stable was."""
        await self._end("done", self.row.candidate, sentence)
        self.verdict("done", sentence)

    async def _end(self, state: str, winner: int, sentence: str) -> None:
        """Move the traffic alone: until `leave`, what ran goes on, so that nothing in flight is lost."""
        row, now = self.row, self.work.now
        loser = row.stable if winner == row.candidate else row.candidate
        row.state, row.resumes_as, row.reason = state, "", sentence
        row.finished_at, row.leaves_at = now, now + LEAVES_AFTER_S
        before = self._before()
        rings = [ring for ring in before.rings if ring.version != loser]
        await self._set_traffic([*plan.all_to(winner), *before.arms], rings, plan.MANUAL)

    async def leave(self) -> None:
        """Have the version that lost leave, or be what it was before; a candidate that won has stable's scaling.

        Others may have taken the room for that meanwhile: over the quota, the candidate becomes no larger than it is.
        """
        self.row.leaves_at = None
        await self._change_versions(self._settled, lambda now: settled_within(now, self._settled(now)))
        self._published()

    def _settled(self, revision: Revision) -> list[PlacedVersion]:
        row, is_done = self.row, self.row.state == "done"
        before = PlacedVersion.model_validate(row.candidate_before) if row.candidate_before is not None else None
        scaling = next((one.scaling for one in revision.versions if one.version == row.stable), None)
        left = []
        for one in revision.versions:
            if one.version == row.candidate and is_done and scaling is not None:
                left.append(one.model_copy(update={"scaling": scaling}))
            elif one.version == row.candidate and not is_done and before is not None:
                left.append(before)
            elif one.version != (row.stable if is_done else row.candidate):
                left.append(one)
        return left or revision.versions

    async def _change_versions(self, *ways: Callable[[Revision], list[PlacedVersion]]) -> None:
        """Make another revision of the deployment: by the first of `ways` that the quota has room for, or the last.

        Mappings of features that no version needs any more go too.
        """
        rows = DeploymentRepository(self.work.session)
        deployment = await rows.get(self.work.tenant, self.row.model)
        if deployment is None or deployment.deleted:
            return
        before = await rows.revision(self.work.tenant, deployment)
        tenant, after = await TenantRepository(self.work.session).get(self.work.tenant), before
        for way in ways:
            after = await self._without_idle_features(before.model_copy(update={"versions": way(before)}))
            with contextlib.suppress(Unprocessable):
                await Planner(self.work.session, self.work.tenant).check_quota(tenant, self.row.model, after)
                break
        if after == before:
            return
        changes = plan.differences(plan.comparable(before, {}), plan.comparable(after, {}))
        await DeploymentService(self.work).new_revision(deployment, after, changes)

    async def _without_idle_features(self, revision: Revision) -> Revision:
        if revision.features is None:
            return revision
        versions = await CatalogRepository(self.work.session).versions(self.work.tenant, self.row.model)
        held = [one for one in versions if one.number in revision.numbers()]
        needed = {entity for one in held for entity in one.feature_entities}
        entity = {name: where for name, where in revision.features.entity.items() if name in needed}
        features = revision.features.model_copy(update={"entity": entity}) if entity else None
        return revision.model_copy(update={"features": features})

    def verdict(self, kind: VerdictKind, sentence: str, **detail: Any) -> None:
        """A row linked to the one before, and an event."""
        row = self.row
        row.verdicts += 1
        told = chain.plain({"sentence": sentence, "state": row.state, **detail, "evidence": self.judged.evidence})
        verdict = RolloutVerdictRow(
            rollout=row.id,
            number=row.verdicts,
            seq=self.judged.seq,
            at=self.work.now,
            kind=kind,
            detail={**told, "bits": chain.bits(told["evidence"])},
            previous=row.head or chain.anchor(row),
            hash="",
        )
        verdict.hash = row.head = chain.link(verdict)
        self._rows.add(verdict)
        self.given.append(kind)
        self.work.happened(
            _EVENTS[kind],
            f"deployments/{row.model}",
            row.verdicts,
            aggregate=f"rollouts/{row.id}",
            rollout=row.id,
            stable=row.stable,
            candidate=row.candidate,
            state=row.state,
            step=row.step,
            sentence=sentence,
            verdict=row.verdicts,
        )

    def _before(self) -> Sharing:
        """The traffic that is not the two versions': shadows of others, and rings that do not get the candidate."""
        both, before = (self.row.stable, self.row.candidate), self.row.traffic_before
        arms = [Arm.model_validate(arm) for arm in before.get("arms", [])]
        rings = [RingArm.model_validate(ring) for ring in before.get("rings", [])]
        return Sharing(
            arms=[arm for arm in arms if arm.version not in both],
            rings=[ring for ring in rings if ring.version != self.row.candidate],
        )

    async def _set_traffic(self, arms: Sequence[Arm], rings: Sequence[RingArm], owner: str) -> None:
        traffic = await DeploymentRepository(self.work.session).traffic(self.work.tenant, self.row.model)
        sticky = sharing.sharing_of(traffic).sticky
        if sticky is not None and owner not in (traffic.owner, plan.MANUAL):
            sticky = sharing.salted(sticky)  # its keys are drawn apart from those of the rollout before
        traffic.owner = owner
        DeploymentService(self.work).share(traffic, Sharing(arms, sticky, rings))
        self._published()

    def grow(self, stable: int) -> None:
        """Have stable keep so many replicas from now on."""
        capacity = Capacity.model_validate(self.row.capacity)
        self.row.capacity = capacity.model_copy(update={"stable": stable}).model_dump(mode="json")
        self._published()

    def _published(self) -> None:
        self.owner.revision += 1
        self.work.touch("model", self.row.model)
