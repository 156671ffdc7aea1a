"""The bound on false rollbacks, in a small measure of what bench/judge.py measures in a large one."""

import numpy as np
import pytest

from moorage_common.contracts.rollouts import RolloutPolicy
from moorage_registry.rollouts.judge.errors import ErrorsSignal
from moorage_registry.rollouts.judge.latency import LatencySignal
from moorage_registry.rollouts.judge.share import Counts

RUNS, LOOKS = 2000, 300
POLICY = RolloutPolicy()
BEYOND = np.array([0.5, 0.25, 0.1, 0.05, 0.01])[:, np.newaxis]


@pytest.mark.parametrize("base", [0.001, 0.01, 0.05])
@pytest.mark.parametrize("outage", [0.0, 0.5])
def test_without_a_change_fewer_than_one_rollout_in_a_hundred_is_rolled_back_though_every_second_is_looked_at(
    base: float, outage: float
) -> None:
    random = np.random.default_rng(21)
    signal = ErrorsSignal(POLICY.errors, (RUNS,))
    crossed = np.zeros(RUNS, dtype=bool)
    for look in range(LOOKS):
        rate = max(base, outage) if look % 60 < 5 else base
        weight, load = (0.05, 500) if look < 200 else (0.5, 100)
        n_c = random.binomial(load, weight, RUNS)
        signal.fold(Counts(n_c, load - n_c, random.binomial(n_c, rate), random.binomial(load - n_c, rate)))
        crossed |= signal.crossed()
    assert crossed.mean() < POLICY.alpha


def test_latencies_exactly_at_the_least_difference_are_rolled_back_no_more_often_than_allowed() -> None:
    """The candidate's thresholds are later by it, so then as many of its requests are beyond them as of stable's."""
    random = np.random.default_rng(22)
    signal = LatencySignal(POLICY.latency, (RUNS,))
    crossed = np.zeros(RUNS, dtype=bool)
    inner = np.concatenate([[[0.5]], BEYOND[1:] / BEYOND[:-1]])
    for _ in range(LOOKS):
        n_c = random.binomial(500, 0.05, RUNS)
        x_c, x_s = [], []
        left_c, left_s = n_c, 500 - n_c
        for chance in inner:
            left_c, left_s = random.binomial(left_c, chance), random.binomial(left_s, chance)
            x_c.append(left_c)
            x_s.append(left_s)
        signal.fold(Counts(n_c, 500 - n_c, np.array(x_c), np.array(x_s)))
        crossed |= signal.crossed()
    assert crossed.mean() <= POLICY.latency.alpha
