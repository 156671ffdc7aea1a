"""The judge of one rollout: entries in, evidence out."""

from moorage_common.contracts.rollouts import RolloutPolicy
from moorage_registry.rollouts.entries import BASELINE, BatchEntry, Entry, LabelsEntry, StepEntry
from moorage_registry.rollouts.judge.blocks import Blocks, Factor
from moorage_registry.rollouts.judge.evidence import Evidence, Failure, SafetyEvidence, SignalEvidence
from moorage_registry.rollouts.judge.hosts import Hosts
from moorage_registry.rollouts.judge.watched_answers import WatchedDrift, WatchedQuality
from moorage_registry.rollouts.judge.watched_requests import WatchedErrors, WatchedLatency

LEAST_WEIGHT = 0.01
"""Per cent: the routers share out by hundredths of them."""


class Judge:
    """Folds what a rollout sees into evidence for and against its candidate.

    The same entries in the same order give the same floats, bit for bit, on any machine. Memory is bounded whatever
    the traffic is.

    Args:
        stable, candidate: the versions that are compared.
    """

    def __init__(self, policy: RolloutPolicy, stable: int, candidate: int) -> None:
        self._policy = policy
        self._step = StepEntry(step=BASELINE)
        self._baseline = self._labels = 0
        self._in_step = [0, 0]
        self._compared = [0, 0]
        self._blocks = Blocks()
        hosts = Hosts()
        self._errors = WatchedErrors(policy, hosts)
        self._latency = WatchedLatency(policy, hosts)
        self._drift = WatchedDrift(policy)
        self._quality = WatchedQuality(policy, stable, candidate)
        self._failed: Failure | None = None
        self._drifts: Failure | None = None
        self._told: Evidence | None = None

    def fold(self, entry: Entry) -> None:
        """Take in the next entry."""
        self._told = None
        match entry:
            case BatchEntry():
                self._fold_batch(entry)
            case LabelsEntry():
                self._fold_labels(entry)
            case StepEntry():
                self._begin(entry)

    def evidence(self) -> Evidence:
        """What is known after the entries so far."""
        if self._told is None:
            self._told = Evidence(
                signals=self._signals(),
                safety=self._safety(),
                step=self._step.step,
                baseline_requests=self._baseline,
                candidate_requests=self._in_step[0],
                stable_requests=self._in_step[1],
                labels=self._labels,
            )
        return self._told

    def failure(self) -> Failure | None:
        """The signal that has crossed, if one has.

        One that rolls back stays, whatever comes after; drift that holds or alerts is there as long as it is.
        """
        return self._failed or self._drifts

    def _fold_batch(self, entry: BatchEntry) -> None:
        batch = entry.batch
        learning = self._step.step == BASELINE
        errors = self._errors.read(batch)
        latency = self._latency.read(batch, learning=learning)
        drift = self._drift.read(batch, learning=learning)
        n_c, n_s = (sum(host.requests for host in arm.hosts) for arm in (batch.candidate, batch.stable))
        self._baseline += n_s if learning else 0
        self._in_step = [self._in_step[0] + n_c, self._in_step[1] + n_s]
        for factor in self._blocks.add(batch, n_c + n_s, {**errors, **latency, **drift}):
            self._judge(factor)

    def _fold_labels(self, entry: LabelsEntry) -> None:
        self._labels += len(entry.labels)
        for label in entry.labels:
            if self._quality.add(label, ring=self._step.stratum_ring is not None):
                self._latch()

    def _begin(self, entry: StepEntry) -> None:
        for factor in self._blocks.close():
            self._judge(factor)
        self._step = entry
        self._in_step, self._compared = [0, 0], [0, 0]
        if entry.step != BASELINE:
            self._errors.begin()
            self._latency.begin()
            self._drift.begin()
            self._quality.begin()
            self._latch()

    def _judge(self, factor: Factor) -> None:
        errors = factor["errors"]
        if int(errors.n_c) and int(errors.n_s):  # type: ignore[arg-type]
            self._compared = [self._compared[0] + int(errors.n_c), self._compared[1] + int(errors.n_s)]  # type: ignore[arg-type]
        self._errors.fold(factor)
        self._latency.fold(factor)
        self._drift.fold(factor)
        self._latch()

    def _latch(self) -> None:
        if self._failed is not None:
            return
        policy = self._policy
        self._drifts = self._drift.failure() if policy.drift.on else None
        found = (
            self._errors.failure() if policy.errors.on else None,
            self._latency.failure() if policy.latency.on else None,
            self._quality.failure() if policy.quality.on else None,
            self._drifts if self._drifts and self._drifts.action == "roll_back" else None,
        )
        self._failed = next((one for one in found if one is not None), None)

    def _signals(self) -> tuple[SignalEvidence, ...]:
        policy = self._policy
        signals = (
            self._errors.evidence() if policy.errors.on else None,
            self._latency.evidence() if policy.latency.on else None,
            self._quality.evidence() if policy.quality.on else None,
            self._drift.evidence() if policy.drift.on else None,
        )
        return tuple(one for one in signals if one is not None)

    def _safety(self) -> tuple[SafetyEvidence, ...]:
        policy, each = self._policy, self._per_candidate
        safety = (
            self._errors.safety(each) if policy.errors.on else None,
            self._latency.safety(each) if policy.latency.on else None,
            self._quality.safety(each) if policy.quality.on and policy.quality.needed else None,
        )
        return tuple(one for one in safety if one is not None)

    @property
    def _per_candidate(self) -> float:
        """Requests of stable for one of the candidate's that they are compared with."""
        if self._compared[0]:
            return self._compared[1] / self._compared[0]
        return (100.0 - self._step.weight) / max(self._step.weight, LEAST_WEIGHT) if self._step.weight else 1.0
