"""The judge: entries in, evidence out."""

import json
from collections.abc import Sequence
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from moorage_common.contracts.rollouts import DriftPolicy, QualityPolicy, RolloutPolicy
from moorage_common.contracts.signals import ArmCounts, HostCounts, Predictions, SignalBatch, bucket_of
from moorage_registry.rollouts.entries import BatchEntry, Entry, Label, LabelsEntry, StepEntry, parse_entry
from moorage_registry.rollouts.judge import Judge
from moorage_registry.rollouts.judge.blocks import MOST_OPEN
from moorage_registry.rollouts.judge.hosts import MOST as MOST_HOSTS
from moorage_registry.rollouts.judge.hosts import Hosts
from moorage_registry.rollouts.judge.keys import SeenKeys

STABLE, CANDIDATE = 1, 2


def batch(
    candidate: Sequence[HostCounts] = (), stable: Sequence[HostCounts] = (), seq: int = 1, **more: Any
) -> BatchEntry:
    keys = {arm: more.pop(f"{arm}_keys", []) for arm in ("candidate", "stable")}
    told = {"router": "r1", "boot": "b1", "revision": 7, **more}
    return BatchEntry(
        batch=SignalBatch(
            **told, seq=seq, tenant="acme", model="fraud", rollout="ro", opened_at=0.0, closed_at=1.0,
            candidate=ArmCounts(version=CANDIDATE, hosts=list(candidate), bad_keys=keys["candidate"]),
            stable=ArmCounts(version=STABLE, hosts=list(stable), bad_keys=keys["stable"]),
        )
    )  # fmt: skip


def host(requests: int, bad: int = 0, name: str = "h1") -> HostCounts:
    return HostCounts(host=name, requests=requests, bad=bad, causes={"status_500": bad} if bad else {})


def judged(*entries: Entry, policy: RolloutPolicy | None = None) -> Judge:
    judge = Judge(policy or RolloutPolicy(), STABLE, CANDIDATE)
    for entry in entries:
        judge.fold(entry)
    return judge


STEP = StepEntry(step=0, weight=5.0)


def test_a_candidate_that_fails_more_often_is_rolled_back_and_the_sentence_has_the_numbers() -> None:
    judge = judged(StepEntry(step=-1), STEP, *[batch([host(25, 2)], [host(475, 5)], n) for n in range(8)])
    failure = judge.failure()
    assert failure is not None
    assert (failure.signal, failure.action) == ("errors", "roll_back")
    assert "8 % of the candidate's 100 requests failed (8), against 1.05 % of stable's 1,900 (20)" in failure.sentence
    assert "the evidence is 849 to 1 where 250 to 1 are asked for" in failure.sentence
    assert failure.numbers["candidate_bad"] == 8


def test_an_outage_of_both_versions_is_nobodys_fault() -> None:
    judge = judged(STEP, *[batch([host(25, 20)], [host(475, 380)], n) for n in range(100)])
    assert judge.failure() is None


def test_evidence_alone_does_not_roll_back_below_the_policys_least_counts() -> None:
    few = judged(STEP, batch([host(3, 3)], [host(997)]))
    assert few.failure() is None
    signal = few.evidence().signal("errors")
    assert signal is not None
    assert signal.log_e > signal.threshold
    assert judged(STEP, batch([host(3, 3)], [host(997)]), batch([host(7)], [host(99)], 2)).failure() is not None


def test_a_failure_says_so_when_all_of_it_came_from_one_host() -> None:
    entries = [batch([host(20, 10, "h1"), host(20, 0, "h2")], [host(400, 4, "s1")], n) for n in range(5)]
    failure = judged(STEP, *entries).failure()
    assert failure is not None
    assert "all of it from host h1" in failure.sentence


def test_a_key_of_sticky_traffic_counts_once_whichever_router_saw_it() -> None:
    once = batch([host(50, 2)], [host(50, 1)], 1, candidate_keys=[11, 12], stable_keys=[13])
    again = batch([host(50, 2)], [host(50, 2)], 1, candidate_keys=[11, 14], stable_keys=[12, 13], router="r2")
    signal = judged(STEP, once, again).evidence().signal("errors")
    assert signal is not None
    assert (signal.candidate_bad, signal.stable_bad) == (3, 1)


def test_batches_of_a_single_request_are_joined_until_they_can_be_compared_and_never_with_another_routers() -> None:
    one_router = judged(STEP, *[batch(*_arms(n), n) for n in range(3200)])
    assert one_router.evidence().signals[0].log_e > 50
    apart = judged(STEP, *[batch(*_arms(n), n, router="r1" if n % 20 else "r2") for n in range(3200)])
    assert apart.evidence().signals[0].log_e == 0.0


def _arms(number: int) -> tuple[list[HostCounts], list[HostCounts]]:
    return ([host(1, int(number % 40 == 0))], []) if number % 20 == 0 else ([], [host(1)])


def test_a_change_of_weights_is_never_within_one_comparison() -> None:
    judge = judged(STEP, batch([host(1, 1)], [host(3)], 1, revision=7), batch([host(1)], [host(1)], 2, revision=8))
    before = judge.evidence().signals[0]
    assert (before.candidate_n, before.stable_n) == (1, 3)
    judge.fold(StepEntry(step=1, weight=25.0))
    after = judge.evidence().signals[0]
    assert (after.candidate_n, after.stable_n) == (2, 4)


def test_requests_are_told_of_the_baseline_and_of_the_step() -> None:
    judge = judged(StepEntry(step=-1), batch([], [host(1500)]), STEP, batch([host(20)], [host(400)], 2))
    evidence = judge.evidence()
    assert (evidence.baseline_requests, evidence.candidate_requests, evidence.stable_requests) == (1500, 20, 400)
    assert evidence.step == 0


def test_entries_read_back_as_they_were_written() -> None:
    for entry in (STEP, batch([host(5, 1)], [host(9)]), LabelsEntry(labels=[], settled_to=4)):
        assert parse_entry(entry.kind, json.loads(entry.model_dump_json())) == entry


def test_memory_is_bounded_whatever_the_traffic_is() -> None:
    keys = SeenKeys(most=100)
    assert keys.new(range(100)) == 100
    assert keys.new(range(50)) == 0
    later = keys.new(range(100, 10_000))
    assert len(keys) <= 100
    assert later < 1000
    hosts = Hosts()
    for number in range(1000):
        hosts.add(f"h{number}", requests=1)
    assert len(hosts.told()) == MOST_HOSTS + 1
    assert sum(one.requests for one in hosts.told()) == 1000
    judge = judged(STEP, *[batch([host(1)], [host(1)], 1, router=f"r{n}") for n in range(1000)])
    assert judge.evidence().signals[0].candidate_n == 1000 - MOST_OPEN


def test_keys_stop_counting_whichever_version_they_are_given_to() -> None:
    keys, random = SeenKeys(most=1000), Random(1)
    drawn = [random.getrandbits(63) for _ in range(20_000)]
    assert keys.new(drawn[:10_000]) > 0
    counted = [key for key in drawn[10_000:] if keys.new([key])]
    assert 0.4 < sum(key % 2 for key in counted) / len(counted) < 0.6


def _arm(n: int, x: int, us: int, odd: int, keyed: bool) -> dict[str, Any]:
    bad = min(n, x)
    slow = {bucket_of(us): n // 2, bucket_of(us * 1.3): n - n // 2}
    return {
        "hosts": [HostCounts(host=f"h{odd % 3}", requests=n, bad=bad, slow=slow)],
        "predictions": Predictions(classes={"a": n // 3, f"c{odd % 5}": n % 7}),
        "bad_keys": [odd * 1000 + one for one in range(bad)] if keyed else [],
    }


_ARMS = st.builds(
    _arm, st.integers(0, 400), st.integers(0, 400), st.integers(1, 10**7), st.integers(0, 9), st.booleans()
)
_BATCHES = st.builds(
    lambda c, s, **told: BatchEntry(
        batch=SignalBatch(
            seq=1, tenant="acme", model="fraud", rollout="ro", boot="b1", opened_at=0.0, closed_at=1.0,
            candidate=ArmCounts(version=CANDIDATE, **c), stable=ArmCounts(version=STABLE, **s), **told,
        )
    ),
    _ARMS, _ARMS, router=st.sampled_from(["r1", "r2"]), stratum=st.sampled_from(["", "ring:beta", "shadow"]),
    revision=st.integers(1, 2),
)  # fmt: skip
_LABEL = st.builds(
    Label, version=st.integers(1, 3), wrong=st.none() | st.booleans(), loss=st.none() | st.floats(),
    other_wrong=st.none() | st.booleans(), other_loss=st.none() | st.floats(),
)  # fmt: skip
_LABELS = st.builds(LabelsEntry, labels=st.lists(_LABEL, max_size=80), settled_to=st.integers(0, 9))
_STEPS = st.builds(StepEntry, step=st.integers(-1, 3), weight=st.floats(0, 100))
_POLICIES = st.sampled_from(
    [
        RolloutPolicy(),
        RolloutPolicy(quality=QualityPolicy(paired_pct=50, needed=True), drift=DriftPolicy(action="roll_back")),
    ]
)


def _hexes(judge: Judge) -> list[str]:
    evidence = judge.evidence()
    return [one.log_e.hex() for one in (*evidence.signals, *evidence.safety)]


@settings(max_examples=100, deadline=None)
@given(st.lists(_BATCHES | _STEPS | _LABELS, max_size=30), _POLICIES)
def test_folding_the_same_entries_again_gives_the_same_evidence_to_the_bit(
    entries: list[Entry], policy: RolloutPolicy
) -> None:
    once, again = judged(*entries, policy=policy), Judge(policy, STABLE, CANDIDATE)
    for entry in entries:
        again.fold(parse_entry(entry.kind, json.loads(entry.model_dump_json())))
    assert _hexes(once) == _hexes(again)
    assert once.evidence() == again.evidence()
    assert once.failure() == again.failure()
    assert json.loads(json.dumps(once.evidence().told(), allow_nan=False)) == once.evidence().told()


@settings(max_examples=50, deadline=None)
@given(st.lists(_BATCHES | _STEPS | _LABELS, max_size=30))
def test_what_was_counted_never_becomes_less_and_a_rollback_is_never_taken_back(entries: list[Entry]) -> None:
    judge, before, failed = Judge(RolloutPolicy(), STABLE, CANDIDATE), [0] * 17, None
    for entry in entries:
        judge.fold(entry)
        evidence = judge.evidence()
        counts = [
            count
            for one in evidence.signals
            if one.name != "drift"  # of the bin that moved most, which may be another one later
            for count in (one.candidate_n, one.candidate_bad, one.stable_n, one.stable_bad)
        ]
        counts = [*counts, evidence.labels, evidence.baseline_requests]
        assert all(now >= then for now, then in zip(counts, before, strict=False))
        before = counts
        if failed is not None:
            assert judge.failure() == failed
        if (failure := judge.failure()) is not None and failure.action == "roll_back":
            failed = failure
