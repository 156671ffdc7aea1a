"""One look at one rollout: what is the case, what is decided, and its writing down in one transaction."""

from dataclasses import dataclass, replace
from typing import cast

import structlog

from moorage_common.bus import Bus
from moorage_common.clock import Clock
from moorage_common.contracts.names import TenantId
from moorage_common.contracts.rollouts import RolloutPolicy, RolloutState
from moorage_registry.catalog.repository import CatalogRepository
from moorage_registry.catalog.tables import VersionRow
from moorage_registry.deployments.loads import LoadReports
from moorage_registry.deployments.models import PlacedVersion
from moorage_registry.deployments.status import StatusReports
from moorage_registry.rollouts import chain, sentences
from moorage_registry.rollouts.capacity import carries, grown
from moorage_registry.rollouts.entries import BASELINE, BatchEntry, StepEntry
from moorage_registry.rollouts.facts import facts_of, percentile, replicas_of
from moorage_registry.rollouts.lease import Lease
from moorage_registry.rollouts.moves import Judged, Moves, append
from moorage_registry.rollouts.repository import RolloutRepository
from moorage_registry.rollouts.skew import SkewGate
from moorage_registry.rollouts.steps import (
    Alert,
    Begin,
    Decision,
    Facts,
    Finish,
    Hold,
    Promote,
    RollBack,
    Rollout,
    Stay,
    decide,
)
from moorage_registry.rollouts.tables import RolloutRow
from moorage_registry.rollouts.watch import Watch
from moorage_registry.rollouts.weights import guard_of
from moorage_registry.tenants.repository import TenantRepository
from moorage_registry.work import Work, Works

log = structlog.get_logger()

ACTOR = "rollouts"
"""In the audit log: who moved it, where no person did."""
_DELAYS = 500
_LABELS = 2000


class Stale(Exception):
    """Somebody else moved the rollout since it was read."""


@dataclass(frozen=True)
class Outcome:
    """What a look wrote: verdicts by kind, and whether the traffic moved."""

    given: tuple[str, ...] = ()
    moved: bool = False


NOTHING = Outcome()


def restrained(decision: Decision, watch: Watch, facts: Facts, *, bus_away: bool) -> Decision:
    """`decision`, unless what it would begin could not be answered or heard of."""
    if isinstance(decision, Finish) and bus_away:
        return Stay(sentences.BUS_AWAY)
    if not isinstance(decision, Begin | Promote):
        return decision
    if bus_away:
        return Hold(sentences.BUS_AWAY)
    step = decision.step if isinstance(decision, Begin) else guard_of(watch.policy)
    wanted = carries(watch.policy, watch.capacity, step)
    if facts.candidate_ready < wanted:
        candidate = watch.row.candidate
        return Hold(sentences.short_of_replicas(candidate, facts.candidate_ready, wanted, facts.no_room))
    return decision


def sayable(decision: Decision) -> Decision:
    """`decision` in words that every database takes: some are a model's own, its errors' and its classes'."""
    match decision:
        case Stay() | Hold():
            return replace(decision, reason=sentences.plain(decision.reason))
        case RollBack() | Alert():
            return replace(decision, sentence=sentences.plain(decision.sentence))
        case _:
            return decision


def rollout_of(watch: Watch, version: VersionRow) -> Rollout:
    """What `decide` is told. Time without room, or before the version is valid, is no time to be ready in."""
    row = watch.row
    began_at = row.step_began_at
    if row.step == BASELINE:
        began_at = max(began_at, watch.room_lacked_at, version.validated_at or 0.0)
    return Rollout(
        state=cast("RolloutState", row.state),
        step=row.step,
        step_began_at=began_at,
        policy=watch.policy,
        resumes_as=row.resumes_as,
        alerted=frozenset(row.outlook.get("alerted", [])),
    )


def is_news(row: RolloutRow, decision: Decision) -> bool:
    """Whether `decision` changes anything that people see, numbers in a reason apart."""
    match decision:
        case Stay():
            return row.state == "hold" or (row.state != "paused" and _says_another(row, decision.reason))
        case Hold():
            return row.state != "hold" or _says_another(row, decision.reason)
        case _:
            return True


def _says_another(row: RolloutRow, reason: str) -> bool:
    return sentences.shape(row.reason) != sentences.shape(reason)


@dataclass(frozen=True)
class Looks:
    """Looks at rollouts for the registry that holds `lease`."""

    works: Works
    bus: Bus
    clock: Clock
    lease: Lease
    status: StatusReports
    loads: LoadReports
    skew: SkewGate

    async def look(self, watch: Watch) -> Outcome:
        """Judge what has come, decide, and write what there is to write.

        Raises:
            Stale: another moved it meanwhile; nothing is written.
            LeaseLost: another registry moves rollouts; nothing is written.
        """
        facts, version = await self._facts(watch)
        now = self.clock()
        evidence, failure = watch.judge.evidence(), watch.judge.failure()
        decision = decide(rollout_of(watch, version), evidence, failure, facts, now)
        decision = sayable(restrained(decision, watch, facts, bus_away=not self.bus.connected))
        mean = sum(watch.in_flight) / max(1, len(watch.in_flight))
        keeps = grown(watch.capacity, mean, PlacedVersion.model_validate(watch.row.stable_before))
        if not watch.pending and not is_news(watch.row, decision) and keeps == watch.capacity.stable:
            return NOTHING
        entries = len(watch.pending)
        async with self.works.begin(watch.tenant, ACTOR) as work:
            moves = await self._locked(work, watch)
            await self._write_pending(work, watch, moves.row)
            moves = replace(moves, judged=self._judged(watch, moves.row))
            if keeps > watch.capacity.stable:
                moves.grow(keeps)
            self._expect(moves, decision)
            began = await self._act(moves, decision, watch)
            row = moves.row
        watch.written(row, entries=entries)
        if began is not None:
            watch.judge.fold(began)
        moved = isinstance(decision, Begin | Promote | Finish | RollBack)
        return Outcome(tuple(moves.given), moved)

    async def leave(self, row: RolloutRow) -> None:
        """Have the version that lost leave. Raises LeaseLost."""
        policy = RolloutPolicy.model_validate(row.policy)
        tenant = TenantId(row.tenant)
        async with self.works.begin(tenant, ACTOR) as work:
            await TenantRepository(work.session).get(tenant, lock=True)  # whose quota is looked at
            owner = await CatalogRepository(work.session).model(tenant, row.model, lock=True)
            await self.lease.check(work.session)
            found = await RolloutRepository(work.session).get(tenant, row.model, row.id)
            if owner is not None and found is not None and found.leaves_at is not None:
                await Moves(work, owner, found, policy, Judged.last(found)).leave()

    async def _facts(self, watch: Watch) -> tuple[Facts, VersionRow]:
        """What is the case now; labels that have settled are judged on the way."""
        row, now = watch.row, self.clock()
        async with self.works.db.read() as session:
            version = await CatalogRepository(session).version(watch.tenant, row.model, row.candidate)
            rows = RolloutRepository(session)
            labels = await rows.labels(watch.tenant, row.model, watch.settled_to, _LABELS)
            guarded = row.step >= guard_of(watch.policy)
            delays = await rows.label_delays(watch.tenant, row.model, _DELAYS) if guarded else []
        if version is None:
            raise Stale(row.id)  # its tenant is being deleted
        watch.see_labels(list(labels), now)
        status = self.status.of(watch.tenant, row.model)
        loads = self.loads.in_flight(watch.tenant)
        in_flight = sum(loads.get((row.model, number), 0) for number in (row.stable, row.candidate))
        facts = facts_of(
            stable=row.stable,
            candidate=version,
            capacity=watch.capacity,
            stable_kept=watch.capacity.start,
            status=status,
            skew=self.skew.fault(watch.tenant, version.number, version.feature_service, version.feature_fingerprint),
            restarts=watch.look(status, in_flight, now),
            label_delay_s=percentile(delays, 0.9),
        )
        waits = not replicas_of(status, row.stable) or version.state in ("uploaded", "validating")
        if facts.no_room or waits:
            watch.room_lacked_at = now
        return facts, version

    async def _locked(self, work: Work, watch: Watch) -> Moves:
        """The rollout's row for this transaction alone. Raises LeaseLost, Stale."""
        owner = await CatalogRepository(work.session).model(watch.tenant, watch.row.model, lock=True)
        await self.lease.check(work.session)
        row = await RolloutRepository(work.session).get(watch.tenant, watch.row.model, watch.row.id)
        if owner is None or row is None or (row.seq, row.verdicts) != (watch.seq, watch.row.verdicts):
            raise Stale(watch.row.id)
        return Moves(work, owner, row, watch.policy, Judged.last(row))

    async def _write_pending(self, work: Work, watch: Watch, row: RolloutRow) -> None:
        read: dict[tuple[str, str], int] = {}
        for seen in watch.pending:
            append(work.session, row, seen.entry, seen.at)
            if isinstance(seen.entry, BatchEntry):
                read[seen.entry.batch.router, seen.entry.batch.boot] = seen.entry.batch.seq
        rows = RolloutRepository(work.session)
        for (router, boot), seq in read.items():
            await rows.note_read(row.id, router, boot, seq)

    def _judged(self, watch: Watch, row: RolloutRow) -> Judged:
        return Judged(chain.plain(watch.judge.evidence().told()), row.seq)

    def _expect(self, moves: Moves, decision: Decision) -> None:
        """Keep the evidence, and what the step is expected to take."""
        judged = moves.judged
        moves.row.outlook = {
            "evidence": judged.evidence,
            "seq": judged.seq,
            "bits": chain.bits(judged.evidence),
            "alerted": moves.row.outlook.get("alerted", []),
            "held": moves.row.outlook.get("held", []),
            "eta_s": decision.eta_s if isinstance(decision, Stay | Hold) else None,
            "needed": decision.needed if isinstance(decision, Stay | Hold) else None,
        }

    async def _act(self, moves: Moves, decision: Decision, watch: Watch) -> StepEntry | None:
        """Carry `decision` out in the rows; what the judge must be told once they are committed."""
        row, evidence = moves.row, watch.judge.evidence()
        match decision:
            case Begin():
                return await moves.begin(
                    decision.step, sentences.begun(watch.policy, decision.step, row.candidate, evidence)
                )
            case Promote():
                sentence = sentences.promoted(watch.policy, row.candidate, row.stable, evidence)
                return await moves.begin(guard_of(watch.policy), sentence, "promoted")
            case RollBack():
                sentence = sentences.back(row.stable, decision.sentence)
                await moves.back(sentence, "rolled_back", signal=decision.signal)
            case Finish():
                await moves.finish(sentences.done(row.candidate, row.stable, evidence))
            case Alert():
                moves.alert(decision.signal, decision.sentence)
            case Hold():
                signal = _signal_of(decision, watch)
                if row.state != "hold" or (signal and signal not in row.outlook.get("held", [])):
                    moves.hold(decision.reason, signal)
                else:
                    row.reason = decision.reason
            case Stay() if row.state == "hold":
                moves.resume(decision.reason)
            case Stay() if row.state != "paused":
                row.reason = decision.reason
        return None


def _signal_of(decision: Hold, watch: Watch) -> str:
    """The judge's signal that it holds for; "" for anything else."""
    failure = watch.judge.failure()
    return failure.signal if failure is not None and failure.sentence == decision.reason else ""
