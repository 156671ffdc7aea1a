"""The pure parts: split, balance, buckets, retries."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage_common.contracts.routes import Arm
from moorage_router import balancer, splits
from moorage_router.forwarding import Failure, may_retry
from moorage_router.limits import gcra


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=6), st.floats(0, 1, exclude_max=True))
def test_a_split_gives_each_arm_the_part_of_the_line_that_is_its_weight(weights: list[int], draw: float) -> None:
    arms = [Arm(arm=f"v{n}", version=n, weight_bp=w) for n, w in enumerate(weights)]
    arm = splits.choose(splits.split_of(arms), draw)
    if not any(weights):
        assert arm is None
        return
    point, reached = draw * sum(weights), 0
    expected = next(a for a in arms if a.weight_bp and (reached := reached + a.weight_bp) > point)
    assert arm == expected


def test_shadows_take_no_traffic() -> None:
    arms = [Arm(arm="a", version=1, weight_bp=0), Arm(arm="s", version=2, weight_bp=10_000, role="shadow")]
    assert splits.choose(splits.split_of(arms), 0.5) is None


class Loaded:
    def __init__(self, in_flight: int) -> None:
        self.in_flight = in_flight


def test_the_busiest_of_several_hosts_is_never_chosen_and_avoidance_holds_while_there_is_another() -> None:
    hosts = [Loaded(9), Loaded(1), Loaded(1)]
    chosen = [balancer.choose(hosts, random.random) for _ in range(500)]
    assert hosts[0] not in chosen
    assert {id(h) for h in chosen} == {id(hosts[1]), id(hosts[2])}
    assert all(balancer.choose(hosts[1:], random.random, avoid=hosts[1]) is hosts[2] for _ in range(50))
    assert balancer.choose(hosts[:1], random.random, avoid=hosts[0]) is hosts[0]
    assert balancer.choose([], random.random) is None


@given(st.lists(st.floats(0, 0.5), max_size=300), st.floats(1, 1000), st.integers(1, 200))
def test_a_bucket_never_admits_more_than_burst_plus_rate_times_time(gaps: list[float], rate: float, burst: int) -> None:
    now = tat = 100.0
    admitted = 0
    for gap in gaps:
        now += gap
        taken = gcra.take(tat, now, rate=rate, burst=burst)
        if isinstance(taken, gcra.Taken):
            admitted, tat = admitted + 1, taken.tat
        else:
            later = gcra.take(tat, now + taken.retry_after_s + 1e-6, rate=rate, burst=burst)
            assert isinstance(later, gcra.Taken)
    assert admitted <= burst + rate * (now - 100.0) + 1e-3


@given(st.floats(0, 1e6), st.integers(1, 100_000), st.integers(1, 20))
def test_a_chunk_is_100_ms_of_traffic_and_at_most_half_the_burst_over_all_routers(
    rate: float, burst: int, routers: int
) -> None:
    chunk = gcra.chunk(rate, burst, routers)
    assert 1 <= chunk <= max(1, rate * 0.1 + 1)
    assert chunk == 1 or chunk * 2 * routers <= burst


@pytest.mark.parametrize(
    ("failure", "kept", "data", "retried", "again"),
    [
        (Failure.NOT_SENT, True, False, True, True),
        (Failure.NOT_SENT, False, True, False, False),
        (Failure.LOST, True, True, False, True),
        (Failure.LOST, True, True, True, False),
        (Failure.LOST, True, False, False, False),
        (Failure.LOST, False, True, False, False),
        (Failure.NOT_HELD, True, True, False, True),
    ],
)
def test_calls_are_made_again_as_architecture_says(
    failure: Failure, kept: bool, data: bool, retried: bool, again: bool
) -> None:
    assert may_retry(failure, body_kept=kept, data_format=data, retried=retried) is again
