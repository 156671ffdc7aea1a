"""Evidence that a candidate is not worse by the margin."""

import numpy as np
import pytest

from moorage_common.contracts.rollouts import LatencyPolicy, QualityPolicy, RolloutPolicy, Step
from moorage_common.contracts.signals import ArmCounts, HostCounts, SignalBatch
from moorage_registry.rollouts.entries import BatchEntry, StepEntry
from moorage_registry.rollouts.judge import Judge, SafetyEvidence
from moorage_registry.rollouts.judge.safety import LatencySafety, RateSafety
from moorage_registry.rollouts.judge.share import Counts

POLICY = RolloutPolicy(steps=[Step(weight=5.0), Step(weight=50.0)], latency=LatencyPolicy(on=False))


def batch(seq: int, candidate: tuple[int, int], stable: tuple[int, int]) -> BatchEntry:
    def arm(version: int, counts: tuple[int, int]) -> ArmCounts:
        return ArmCounts(version=version, hosts=[HostCounts(host="h", requests=counts[0], bad=counts[1])])

    return BatchEntry(
        batch=SignalBatch(
            router="r1", boot="b1", seq=seq, tenant="acme", model="fraud", rollout="ro", revision=1, opened_at=0.0,
            closed_at=1.0, candidate=arm(2, candidate), stable=arm(1, stable),
        )
    )  # fmt: skip


def judge_at_first_step(policy: RolloutPolicy = POLICY, bad: int = 20) -> Judge:
    judge = Judge(policy, 1, 2)
    judge.fold(StepEntry(step=-1))
    judge.fold(batch(1, (0, 0), (2000, bad)))
    judge.fold(StepEntry(step=0, weight=5.0))
    return judge


def safety(judge: Judge, name: str = "errors") -> SafetyEvidence:
    return next(one for one in judge.evidence().safety if one.name == name)


def test_clean_requests_pass_near_zero_errors_and_what_is_needed_is_told_before() -> None:
    judge = judge_at_first_step(bad=0)
    told = safety(judge).needed_requests
    assert told is not None
    sent = 0
    while not safety(judge).passed:
        sent += 25
        judge.fold(batch(1 + sent, (25, 0), (475, 0)))
    assert sent == pytest.approx(told, rel=0.15)


def test_each_step_needs_evidence_of_its_own() -> None:
    judge = judge_at_first_step(bad=0)
    for seq in range(2, 30):
        judge.fold(batch(seq, (25, 0), (475, 0)))
    assert safety(judge).passed
    judge.fold(StepEntry(step=1, weight=50.0))
    assert not safety(judge).passed
    assert safety(judge).log_e == pytest.approx(0.0, abs=1e-12)


def test_a_candidate_worse_by_more_than_the_margin_does_not_pass_and_no_number_is_promised() -> None:
    judge = judge_at_first_step()
    for seq in range(2, 60):
        judge.fold(batch(seq, (25, 1), (475, 5)))
    assert not safety(judge).passed
    assert safety(judge).needed_requests is None


def test_an_outage_of_both_only_delays() -> None:
    judge = judge_at_first_step()
    for seq in range(2, 10):
        judge.fold(batch(seq, (25, 12), (475, 228)))
    assert not safety(judge).passed
    for seq in range(10, 400):
        judge.fold(batch(seq, (25, int(seq % 4 == 0)), (475, 5)))
    assert safety(judge).passed


def test_nothing_is_promised_without_any_request_of_stable() -> None:
    judge = Judge(RolloutPolicy(), 1, 2)
    judge.fold(StepEntry(step=0, weight=5.0))
    assert [(one.passed, one.needed_requests) for one in judge.evidence().safety] == [(False, None), (False, None)]


def test_quality_is_waited_for_where_the_policy_needs_it() -> None:
    needed = POLICY.model_copy(update={"quality": QualityPolicy(needed=True)})
    assert [one.name for one in judge_at_first_step(needed).evidence().safety] == ["errors", "quality"]
    assert [one.name for one in judge_at_first_step().evidence().safety] == ["errors"]


@pytest.mark.parametrize(("base", "margin"), [(0.001, 0.02), (0.01, 0.02), (0.05, 0.02), (0.01, 0.01)])
def test_a_candidate_exactly_at_the_margin_passes_with_no_more_than_the_chance_that_is_allowed(
    base: float, margin: float
) -> None:
    runs, beta = 2000, 0.05
    random = np.random.default_rng(11)
    process = RateSafety(margin, shape=(runs,))
    process.fold(Counts(np.zeros(runs), np.full(runs, 2000), np.zeros(runs), random.binomial(2000, base, runs)))
    process.begin()
    passed = np.zeros(runs, dtype=bool)
    for _ in range(150):
        x_c, x_s = random.binomial(25, base + margin, runs), random.binomial(475, base, runs)
        process.fold(Counts(25, 475, x_c, x_s))
        passed |= process.passed(np.log(1 / beta))
    assert passed.mean() <= beta


def test_a_p95_slower_by_the_margin_passes_with_no_more_than_the_chance_that_is_allowed() -> None:
    runs, beta = 2000, 0.05
    random = np.random.default_rng(12)
    process = LatencySafety(shape=(runs,))
    passed = np.zeros(runs, dtype=bool)
    for _ in range(200):
        process.fold(Counts(25, 475, random.binomial(25, 0.05, runs), random.binomial(475, 0.05, runs)))
        passed |= process.log_e >= np.log(1 / beta)
    assert passed.mean() <= beta
