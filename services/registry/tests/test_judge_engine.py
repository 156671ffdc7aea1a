"""The arithmetic of evidence."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from moorage_common.contracts.rollouts import QualityPolicy, RolloutPolicy
from moorage_registry.rollouts.judge.arith import exp, ln, log_mean_exp
from moorage_registry.rollouts.judge.drift import DriftSignal
from moorage_registry.rollouts.judge.errors import ErrorsSignal
from moorage_registry.rollouts.judge.latency import LatencySignal
from moorage_registry.rollouts.judge.quality import QualitySignal
from moorage_registry.rollouts.judge.safety import RateSafety
from moorage_registry.rollouts.judge.share import Counts, ShareProcess, reached

RATIOS = (1.2, 2.0, 5.0)


@given(st.floats(1e-300, 1e300))
def test_the_logarithm_is_the_librarys_to_the_last_bits(x: float) -> None:
    assert math.isclose(float(ln(x)), math.log(x), rel_tol=5e-16, abs_tol=3e-16)


@given(st.floats(-700, 700))
def test_the_exponential_is_the_librarys_to_the_last_bits(x: float) -> None:
    assert math.isclose(float(exp(x)), math.exp(x), rel_tol=1e-15)


_COUNTS = st.tuples(st.integers(0, 500), st.integers(0, 500), st.integers(0, 500), st.integers(0, 500)).map(
    lambda c: (c[0], c[1], min(c[0], c[2]), min(c[1], c[3]))
)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(_COUNTS, _COUNTS, _COUNTS), min_size=1, max_size=20))
def test_many_runs_at_once_give_what_each_gives_by_itself_to_the_bit(
    looks: list[tuple[tuple[int, int, int, int], ...]],
) -> None:
    together = ShareProcess(RATIOS, shape=(3,))
    alone = [ShareProcess(RATIOS) for _ in range(3)]
    for look in looks:
        together.fold(Counts(*np.array(look).T))
        for process, counts in zip(alone, look, strict=True):
            process.fold(Counts(*counts))
        assert [float(e).hex() for e in together.log_e] == [float(one.log_e).hex() for one in alone]
        for level in (0.0, 1.0, float(alone[0].log_e)):
            flags = [bool(reached(one.log_l, level)) for one in alone]
            assert reached(together.log_l, level).tolist() == flags == [bool(one.log_e >= level) for one in alone]


@given(st.lists(_COUNTS, max_size=50))
def test_evidence_is_a_number_whatever_is_counted(looks: list[tuple[int, int, int, int]]) -> None:
    process = ShareProcess(RATIOS)
    for counts in looks:
        process.fold(Counts(*counts))
    assert math.isfinite(float(process.log_e))


@given(st.integers(0, 500), st.integers(0, 500))
def test_requests_of_one_version_alone_say_nothing(requests: int, bad: int) -> None:
    process = ShareProcess(RATIOS)
    process.fold(Counts(requests, 0, min(requests, bad), 0))
    process.fold(Counts(0, requests, 0, min(requests, bad)))
    assert process.log_l.tolist() == [0.0, 0.0, 0.0]


def test_the_mean_is_of_the_numbers_not_of_their_logarithms() -> None:
    logs = np.array([0.0, 700.0, -5000.0])
    assert math.isclose(float(log_mean_exp(logs)), 700.0 - math.log(3), rel_tol=1e-15)


def test_every_signal_judges_many_runs_at_once_as_each_by_itself_to_the_bit() -> None:
    runs, policy = 5, RolloutPolicy(quality=QualityPolicy(paired_pct=50))
    random = np.random.default_rng(9)
    shapes: list[tuple[int, ...]] = [(runs,), *[()] * runs]
    judges = [
        (
            ErrorsSignal(policy.errors, shape), LatencySignal(policy.latency, shape),
            QualitySignal(policy.quality, shape), DriftSignal(policy.drift, 4, shape), RateSafety(0.02, shape),
        )
        for shape in shapes
    ]  # fmt: skip
    for _ in range(30):
        n_c, n_s = random.integers(0, 60, runs), random.integers(50, 400, runs)
        x_c, x_s = random.binomial(n_c, 0.05), random.binomial(n_s, 0.03)
        slow_c, slow_s = random.binomial(n_c, 0.3, (5, runs)), random.binomial(n_s, 0.2, (5, runs))
        for at, judged in zip([slice(None), *range(runs)], judges, strict=True):
            counts = Counts(n_c[at], n_s[at], x_c[at], x_s[at])
            errors, latency, quality, drift, safety = judged
            errors.fold(counts)
            latency.fold(Counts(n_c[at], n_s[at], slow_c[:, at], slow_s[:, at]))
            quality.fold(counts)
            quality.fold_pairs(x_c[at], x_s[at])
            drift.fold(Counts(n_c[at], n_s[at], slow_c[:4, at], slow_s[:4, at]))
            safety.fold(counts)
    for position in range(5):
        together = [float(one).hex() for one in judges[0][position].log_e]
        assert together == [float(alone[position].log_e).hex() for alone in judges[1:]]
