"""What a rollout is made of, decided purely: shares, capacity, faults, chained verdicts."""

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage_common.contracts.desired import Status
from moorage_common.contracts.rollouts import RolloutPolicy
from moorage_common.contracts.signals import ArmCounts, HostCounts, Predictions, SignalBatch
from moorage_registry.catalog.tables import VersionRow
from moorage_registry.deployments.models import PlacedVersion
from moorage_registry.rollouts import chain, sentences
from moorage_registry.rollouts.capacity import Capacity, asks, candidate_needs, carries, grown, kept
from moorage_registry.rollouts.facts import CRASH_WINDOW_S, Restarts, fault, no_room
from moorage_registry.rollouts.testing import ready, replica
from moorage_registry.rollouts.watch import makes_sense
from moorage_registry.rollouts.weights import arms_of, guard_of, load_pct, weight_pct


def policy(*steps: dict[str, Any], **more: Any) -> RolloutPolicy:
    return RolloutPolicy.model_validate({"steps": list(steps), **more} if steps else more)


weight = st.floats(0.01, 100)
steps = st.lists(
    st.one_of(
        weight.map(lambda pct: {"weight": pct}),
        weight.map(lambda pct: {"shadow": pct}),
        st.tuples(st.sampled_from(["a", "b"]), weight).map(lambda ring: {"ring": ring[0], "weight": ring[1]}),
    ),
    min_size=1,
    max_size=6,
)


@given(steps, st.floats(0, 50))
def test_at_every_step_the_two_versions_have_the_whole_traffic(found: list[dict[str, Any]], holdback: float) -> None:
    shares = sorted(one["weight"] for one in found if "weight" in one and "ring" not in one)
    grown_ = [one if "shadow" in one or "ring" in one else {"weight": shares.pop(0)} for one in found]
    told = policy(*grown_, guard={"holdback": holdback})
    for step in range(-1, guard_of(told) + 1):
        shares_ = arms_of(told, 1, 2, step)
        answering = {arm.version: arm.weight_bp for arm in shares_.arms if arm.role != "shadow"}
        assert sum(answering.values()) == 10_000
        assert answering[2] == round(weight_pct(told, step) * 100)
        assert len({arm.arm for arm in shares_.arms}) == len(shares_.arms)
        assert all(ring.version == 2 and ring.weight_bp > answering[2] for ring in shares_.rings)
    assert weight_pct(told, -1) == 0


def test_rings_come_before_everybody_and_shadows_answer_nobody() -> None:
    told = policy({"shadow": 10}, {"ring": "staff", "weight": 100}, {"weight": 5}, {"ring": "beta", "weight": 50})
    shadow, staff, everybody, beta = (arms_of(told, 1, 2, step) for step in range(4))
    assert [(arm.role, arm.version, arm.weight_bp) for arm in shadow.arms] == [
        ("stable", 1, 10_000), ("candidate", 2, 0), ("shadow", 2, 1000),
    ]  # fmt: skip
    assert [(ring.ring, ring.weight_bp) for ring in staff.rings] == [("staff", 10_000)]
    assert [arm.weight_bp for arm in staff.arms] == [10_000, 0]
    assert [arm.weight_bp for arm in everybody.arms] == [9500, 500]
    assert {ring.ring: ring.weight_bp for ring in beta.rings} == {"staff": 10_000, "beta": 5000}
    assert arms_of(told, 1, 2, 4).rings == []
    assert [load_pct(told, step) for step in range(-1, 5)] == [0, 10, 0, 5, 5, 95]


def placed(**scaling: int) -> PlacedVersion:
    return PlacedVersion.model_validate({"version": 1, "scaling": scaling})


def test_the_candidate_has_what_its_next_step_needs_and_stable_what_carries_all() -> None:
    told = policy({"weight": 5}, {"weight": 50})
    capacity = Capacity(stable=8, candidate=2, start=4, hosts=2, most=8)
    assert [candidate_needs(told, capacity, step) for step in (-1, 0, 1, 2)] == [2, 4, 8, 8]
    assert [carries(told, capacity, step) for step in (0, 1, 2)] == [1, 2, 4], "of what there was at the start"
    few = capacity.model_copy(update={"most": 3})
    assert candidate_needs(told, few, 1) == 3
    assert grown(capacity, 10.0, placed(min=1, max=12, target_in_flight=8)) == 8
    assert grown(capacity, 90.0, placed(min=1, max=12, target_in_flight=8)) == 12
    assert grown(capacity, 0.0, placed(min=0, max=12)) == 8, "never less than before"
    assert (kept(placed(min=0, max=4).scaling, 3).min, kept(placed(min=1, max=2).scaling, 3).min) == (3, 2)


def test_the_candidate_is_asked_for_with_fewer_hosts_before_it_is_refused() -> None:
    found = asks(placed(min=1, max=1), None, 2, 2)
    assert [(one.version, one.scaling.max, hosts) for one, hosts in found] == [(2, 2, 2), (2, 1, 1)]
    held = placed(min=1, max=6).model_copy(update={"version": 2, "priority": 7})
    assert [(one.priority, one.scaling.max, hosts) for one, hosts in asks(placed(min=1, max=4), held, 2, 2)] == [
        (7, 6, 2), (7, 6, 1),
    ]  # fmt: skip


def test_restarts_count_once_and_only_those_of_the_last_minutes() -> None:
    restarts = Restarts({"a": 1})
    assert restarts.look([replica(2, "a", "ready", restarts=1)], 0.0) == 0
    assert restarts.look([replica(2, "a", "ready", restarts=3), replica(2, "b", "loading", restarts=1)], 10.0) == 3
    assert restarts.look([replica(2, "a", "ready", restarts=3)], 20.0) == 3
    assert restarts.look([], 20.0 + CRASH_WINDOW_S) == 0


def status(*replicas: Any) -> Status:
    return Status(cluster="default", tenant="t", model="digits", replicas=list(replicas))


@pytest.mark.parametrize(
    ("state", "replicas", "restarts", "stable_restarts", "said"),
    [
        ("rejected", [], 0, 0, "rejected at validation: too far off"),
        ("ready", [replica(2, "new", "failed", reason="out of memory")], 0, 0, "cannot run: out of memory"),
        ("ready", [replica(2, "old", "failed", reason="last week")], 0, 0, None),
        ("ready", [replica(1, "s", "failed", reason="stable's own")], 0, 0, None),
        ("ready", [], 3, 0, "3 restarts"),
        ("ready", [], 3, 1, None),
        ("ready", [], 2, 0, None),
    ],
)
def test_faults_are_the_candidates_own(
    state: str, replicas: Any, restarts: int, stable_restarts: int, said: str | None
) -> None:
    version = VersionRow(number=2, state=state, reason="too far off")
    capacity = Capacity(stable=1, candidate=1, start=1, hosts=1, most=1, failed_before=["old"])
    found = fault(version, status(*replicas), capacity, restarts, stable_restarts)
    assert (found is None) if said is None else (found is not None and said in found)


def test_what_lacks_room_is_named_with_the_schedulers_reason() -> None:
    assert no_room(status(*ready(1), replica(2, "a", "pending")), 1, 2) is None, "it is merely about to start"
    queued = [replica(2, f"q{n}", "pending", reason="no GPU is free") for n in range(2)]
    assert no_room(status(*ready(1), *queued), 1, 2) == (
        "There is no room for 2 more replicas of version 2 beside those of version 1: no GPU is free"
    )


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 51))
def test_evidence_that_differs_in_one_bit_has_another_digest(value: float, bit: int) -> None:
    raw = int.from_bytes(struct.pack(">d", value), "big") ^ (1 << bit)
    other = struct.unpack(">d", raw.to_bytes(8, "big"))[0]
    told = {"signals": [{"log_e": value}], "n": 1}
    assert chain.bits(told) == chain.bits({"n": 1, "signals": [{"log_e": value}]})
    assert chain.bits(told) != chain.bits({"signals": [{"log_e": other}], "n": 1})


def test_sentences_that_differ_in_numbers_alone_say_the_same() -> None:
    one, other = "about 1,204 more are needed at 5 %", "about 87 more are needed at 25.5 %"
    assert sentences.shape(one) == sentences.shape(other) != sentences.shape("no replica is ready")


def batch(**candidate: Any) -> SignalBatch:
    return SignalBatch(
        router="r", boot="b", seq=1, tenant="t", model="m", rollout="x", revision=1, opened_at=0, closed_at=1,
        candidate=ArmCounts(version=2, **candidate), stable=ArmCounts(version=1),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("candidate", "is_sane"),
    [
        ({"hosts": [HostCounts(host="h", requests=3, bad=3, slow={1: 2})]}, True),
        ({"hosts": [HostCounts(host="h", requests=3, bad=4)]}, False),
        ({"hosts": [HostCounts(host="h", requests=-1, bad=-1)]}, False),
        ({"hosts": [HostCounts(host="h", requests=2**40)]}, False),
        ({"hosts": [HostCounts(host="h", requests=1, slow={1: -1})]}, False),
        ({"hosts": [HostCounts(host="h", requests=1, slow={1: 2**70})]}, False),
        ({"hosts": [HostCounts(host="h", requests=1, slow={10**6: 1})]}, False),
        ({"bad_keys": [2**64]}, False),
        ({"predictions": Predictions(classes={"a": 2**70})}, False),
        ({"predictions": Predictions(classes={"a": -1})}, False),
        ({"predictions": Predictions(numbers=[float("inf")])}, False),
    ],
)
def test_counts_that_cannot_be_are_not_judged(candidate: Any, is_sane: bool) -> None:
    assert makes_sense(batch(**candidate)) is is_sane
