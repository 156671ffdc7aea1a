"""The judge of one rollout: entries in, evidence out."""

from moorage_common.contracts.rollouts import RolloutPolicy
from moorage_common.contracts.signals import ArmCounts
from moorage_registry.rollouts.entries import BASELINE, BatchEntry, Entry, LabelsEntry, StepEntry
from moorage_registry.rollouts.judge import sentences
from moorage_registry.rollouts.judge.arith import threshold
from moorage_registry.rollouts.judge.blocks import Blocks, Factor
from moorage_registry.rollouts.judge.errors import ErrorsSignal
from moorage_registry.rollouts.judge.evidence import Evidence, Failure, SignalEvidence
from moorage_registry.rollouts.judge.hosts import Hosts
from moorage_registry.rollouts.judge.keys import SeenKeys
from moorage_registry.rollouts.judge.share import Counts


class Judge:
    """Folds what a rollout sees into evidence for and against its candidate.

    The same entries in the same order give the same floats, bit for bit, on any machine. Memory is bounded whatever
    the traffic is.

    Args:
        stable, candidate: the versions that are compared.
    """

    def __init__(self, policy: RolloutPolicy, stable: int, candidate: int) -> None:
        self._policy = policy
        self._stable, self._candidate = stable, candidate
        self._step = BASELINE
        self._baseline = self._labels = 0
        self._in_step = [0, 0]
        self._blocks = Blocks()
        self._keys = SeenKeys()
        self._hosts = Hosts()
        self._errors = ErrorsSignal(policy.errors)
        self._failure: Failure | None = None

    def fold(self, entry: Entry) -> None:
        """Take in the next entry."""
        match entry:
            case BatchEntry():
                self._fold_batch(entry)
            case LabelsEntry():
                self._labels += len(entry.labels)
            case StepEntry():
                self._begin(entry)
        self._latch()

    def evidence(self) -> Evidence:
        """What is known after the entries so far."""
        signals = (self._errors_evidence(),) if self._policy.errors.on else ()
        return Evidence(
            signals=signals,
            step=self._step,
            baseline_requests=self._baseline,
            candidate_requests=self._in_step[0],
            stable_requests=self._in_step[1],
            labels=self._labels,
        )

    def failure(self) -> Failure | None:
        """The signal that has crossed, if one has. One that rolls back stays, whatever comes after."""
        return self._failure

    def _fold_batch(self, entry: BatchEntry) -> None:
        batch = entry.batch
        n_c, x_c = self._errors_of(batch.candidate)
        n_s, x_s = self._errors_of(batch.stable)
        if self._step == BASELINE:
            self._baseline += n_s
        self._in_step[0] += n_c
        self._in_step[1] += n_s
        for host in batch.candidate.hosts:
            self._hosts.add(host.host, requests=host.requests, bad=host.bad)
        for factor in self._blocks.add(batch, n_c + n_s, {"errors": Counts(n_c, n_s, x_c, x_s)}):
            self._judge(factor)

    def _errors_of(self, arm: ArmCounts) -> tuple[int, int]:
        requests = sum(host.requests for host in arm.hosts)
        bad = self._keys.new(arm.bad_keys) if arm.bad_keys else sum(host.bad for host in arm.hosts)
        return requests, bad

    def _begin(self, entry: StepEntry) -> None:
        for factor in self._blocks.close():
            self._judge(factor)
        self._step = entry.step
        self._in_step = [0, 0]

    def _judge(self, factor: Factor) -> None:
        self._errors.fold(factor["errors"])

    def _latch(self) -> None:
        if self._failure is not None or not self._policy.errors.on:
            return
        one = self._errors_evidence()
        if one.crossed:
            self._failure = Failure(
                signal="errors", action="roll_back", sentence=sentences.errors(one), numbers=one.told()
            )

    def _errors_evidence(self) -> SignalEvidence:
        least = threshold(self._policy.errors.alpha)
        n_c, n_s, x_c, x_s = (int(one) for one in self._errors.totals.counts)
        return SignalEvidence(
            name="errors",
            log_e=float(self._errors.process.log_e),
            threshold=least,
            crossed=bool(self._errors.crossed(least)),
            candidate_n=n_c,
            candidate_bad=x_c,
            stable_n=n_s,
            stable_bad=x_s,
            per_host=self._hosts.told(),
        )
