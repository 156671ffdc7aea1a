"""Slower answers: thresholds from before, and evidence over stable's quantiles."""

from collections import Counter

import numpy as np
import pytest

from moorage_common.contracts.rollouts import LatencyPolicy, RolloutPolicy
from moorage_common.contracts.signals import ArmCounts, HostCounts, SignalBatch, bucket_of, edge_us
from moorage_registry.rollouts.entries import BatchEntry, StepEntry
from moorage_registry.rollouts.judge import Judge, SignalEvidence
from moorage_registry.rollouts.judge.latency import QUANTILES, buckets_up, thresholds_of

STEP = StepEntry(step=0, weight=5.0)
RANDOM = np.random.default_rng


def hosts(random: np.random.Generator, requests: int, factor: float = 1.0, name: str = "h1") -> list[HostCounts]:
    """Times around 20 ms, lognormal with sigma 0.35."""
    times = 20_000 * factor * np.exp(0.35 * random.standard_normal(requests))
    slow = Counter(bucket_of(float(us)) for us in times)
    return [HostCounts(host=name, requests=requests, slow=dict(slow))]


def later(random: np.random.Generator, requests: int, more_us: float) -> list[HostCounts]:
    """Times around 1.5 ms, and so many microseconds more."""
    times = 1_500 * np.exp(0.35 * random.standard_normal(requests)) + more_us
    return [HostCounts(host="h1", requests=requests, slow=dict(Counter(bucket_of(float(us)) for us in times)))]


def batch(seq: int, candidate: list[HostCounts], stable: list[HostCounts]) -> BatchEntry:
    return BatchEntry(
        batch=SignalBatch(
            router="r1", boot="b1", seq=seq, tenant="acme", model="fraud", rollout="ro", revision=1, opened_at=0.0,
            closed_at=1.0, candidate=ArmCounts(version=2, hosts=candidate), stable=ArmCounts(version=1, hosts=stable),
        )
    )  # fmt: skip


def latency(judge: Judge) -> SignalEvidence:
    one = judge.evidence().signal("latency")
    assert one is not None
    return one


def learnt(random: np.random.Generator, requests: int = 2000) -> Judge:
    judge = Judge(RolloutPolicy(), 1, 2)
    judge.fold(StepEntry(step=-1))
    judge.fold(batch(1, [], hosts(random, requests)))
    judge.fold(STEP)
    return judge


def test_a_candidate_that_is_half_as_slow_again_is_rolled_back_and_the_sentence_has_the_times() -> None:
    random = RANDOM(1)
    judge = learnt(random)
    for seq in range(2, 20):
        judge.fold(batch(seq, hosts(random, 25, 1.5, "h1"), hosts(random, 475, name="s1")))
    failure = judge.failure()
    assert failure is not None
    assert (failure.signal, failure.action) == ("latency", "roll_back")
    assert "of the candidate's" in failure.sentence
    assert " ms or longer" in failure.sentence
    assert "host" not in failure.sentence


def test_a_candidate_as_slow_as_stable_is_not_rolled_back_whatever_both_do() -> None:
    random = RANDOM(2)
    judge = learnt(random)
    for seq in range(2, 200):
        load = 3.0 if 50 < seq < 100 else 1.0
        judge.fold(batch(seq, hosts(random, 25, load), hosts(random, 475, load)))
    assert judge.failure() is None


def test_slower_by_less_than_the_least_difference_never_counts() -> None:
    random = RANDOM(3)
    judge = learnt(random)
    for seq in range(2, 300):
        judge.fold(batch(seq, hosts(random, 250, 1.04), hosts(random, 250)))
    assert judge.failure() is None


def test_thresholds_are_stables_quantiles_and_the_candidates_are_later_by_the_least_difference() -> None:
    policy = LatencyPolicy(least_gap_pct=5, margin_pct=20, least_gap_ms=0, margin_ms=0)
    slow = Counter(bucket_of(us) for us in range(1000, 101_000, 10))
    edges = thresholds_of(slow, policy)
    for quantile, stable_us, candidate in zip(QUANTILES, edges.us, edges.candidate, strict=True):
        exact = 1000 + quantile * 100_000
        assert exact <= stable_us <= exact * 1.03
        assert edge_us(int(candidate)) >= 1.05 * stable_us
    assert edge_us(edges.margin) <= 1.2 * edges.us[3]


def test_a_model_of_a_millisecond_is_not_slower_for_being_colder_but_is_for_three_times_as_many_milliseconds() -> None:
    for more_us, slower in ((1_000, False), (6_000, True)):
        random = RANDOM(9)
        judge = Judge(RolloutPolicy(), 1, 2)
        judge.fold(StepEntry(step=-1))
        judge.fold(batch(1, [], later(random, 2000, 0)))
        judge.fold(STEP)
        for seq in range(2, 60):
            judge.fold(batch(seq, later(random, 50, more_us), later(random, 450, 0)))
        assert (judge.failure() is not None) == slower
        safety = next(one for one in judge.evidence().safety if one.name == "latency")
        assert safety.passed != slower


def test_where_milliseconds_are_more_than_per_cent_they_are_the_least_difference_and_the_margin() -> None:
    edges = thresholds_of(Counter({bucket_of(1000): 1000}), LatencyPolicy())
    assert all(one >= stable + 2000 * (1 - 1e-9) for one, stable in zip(edges.candidate_us, edges.us, strict=True))
    assert edges.us[3] + 3800 <= edge_us(edges.margin) <= edges.us[3] + 4000 * (1 + 1e-9)


@pytest.mark.parametrize("per_cent", [0, 1, 2, 5, 10, 20, 100, 1000])
def test_a_difference_in_buckets_is_never_less_than_asked_for_or_never_more(per_cent: float) -> None:
    factor = 1 + per_cent / 100
    assert edge_us(buckets_up(per_cent, at_least=True)) >= factor * (1 - 1e-9)
    assert edge_us(buckets_up(per_cent, at_least=False)) <= factor * (1 + 1e-9)


def test_thresholds_never_come_from_what_they_judge() -> None:
    random = RANDOM(4)
    judge = learnt(random)
    before = latency(judge).detail["quantiles"]
    judge.fold(batch(2, hosts(random, 25, 2.0), hosts(random, 600, 2.0)))
    told = latency(judge).detail["quantiles"]
    assert [one["stable_us"] for one in told] == [one["stable_us"] for one in before]
    assert told[0]["stable_slow"] > 550
    for seq in range(3, 30):
        judge.fold(batch(seq, hosts(random, 25, 2.0), hosts(random, 475, 2.0)))
    judge.fold(StepEntry(step=1, weight=25.0))
    after = latency(judge).detail["quantiles"]
    assert after[0]["stable_us"] == pytest.approx(2 * before[0]["stable_us"], rel=0.06)


def test_a_baseline_from_a_slow_minute_holds_nothing_up_for_good() -> None:
    random = RANDOM(8)
    judge = Judge(RolloutPolicy(latency=LatencyPolicy(margin_pct=100)), 1, 2)
    judge.fold(StepEntry(step=-1))
    judge.fold(batch(1, [], hosts(random, 2000, 5.0)))
    judge.fold(STEP)
    for seq in range(2, 60):
        judge.fold(batch(seq, hosts(random, 50), hosts(random, 450)))
    assert judge.failure() is None
    safety = next(one for one in judge.evidence().safety if one.name == "latency")
    assert safety.passed


def test_without_enough_of_stable_it_learns_first_and_judges_from_then_on() -> None:
    random = RANDOM(5)
    judge = learnt(random, requests=100)
    assert latency(judge).state == "learning"
    judge.fold(batch(2, hosts(random, 25, 9.0), hosts(random, 475)))
    assert latency(judge).state == "learning"
    judge.fold(batch(3, hosts(random, 25, 9.0), hosts(random, 475)))
    one = latency(judge)
    assert (one.state, one.candidate_n) == ("judging", 25)


def test_a_slow_host_is_named_when_all_of_it_came_from_there() -> None:
    random = RANDOM(6)
    judge = learnt(random)
    for seq in range(2, 40):
        slow = [*hosts(random, 12, 3.0, "slow-one"), *hosts(random, 13, 0.5, "good-one")]
        judge.fold(batch(seq, slow, hosts(random, 475, name="s1")))
    failure = judge.failure()
    assert failure is not None
    assert "from host slow-one" in failure.sentence
