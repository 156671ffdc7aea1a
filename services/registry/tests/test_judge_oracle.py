"""Evidence against independent implementations: the formulas in 80 digits, and the package `ville`."""

import math
from collections.abc import Sequence

import mpmath
import numpy as np
import pytest
import ville
from hypothesis import given, settings
from hypothesis import strategies as st

from moorage_registry.rollouts.judge import drift, errors, latency, quality, sign
from moorage_registry.rollouts.judge.bernoulli import BernoulliProcess
from moorage_registry.rollouts.judge.share import Counts, ShareProcess
from moorage_registry.rollouts.judge.sign import SignProcess

CLOSE = 1e-9


mpmath.mp.dps = 80
Number = mpmath.mpf


def exact_log(values: Sequence[Number]) -> float:
    """ln of the mean, to 80 digits."""
    return float(mpmath.log(mpmath.fsum(values) / len(values)))


def exact_share(ratios: Sequence[float], null: float, looks: Sequence[Counts]) -> float:
    """By the formula with shares, as a product of powers: no logarithm before the last."""
    products = []
    for ratio in ratios:
        product = Number(1)
        for n_c, n_s, x_c, x_s in looks:
            if not n_c or not n_s:
                continue
            share_null = Number(null) * n_c / (Number(null) * n_c + n_s)
            share = Number(ratio) * n_c / (Number(ratio) * n_c + n_s)
            product *= (share / share_null) ** int(x_c) * ((1 - share) / (1 - share_null)) ** int(x_s)
        products.append(product)
    return exact_log(products)


_LOOKS = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 500), st.integers(0, 60), st.integers(0, 60)).map(
        lambda c: Counts(c[0], c[1], min(c[0], c[2]), min(c[1], c[3]))
    ),
    min_size=1,
    max_size=12,
)
GRIDS = {
    "errors": (errors.RATIOS, 1.0),
    "latency": (latency.RATIOS, 1.0),
    "quality": (quality.RATIOS, 1.0),
    "drift": (tuple(1.25 * further for further in drift.FURTHER), 1.25),
    "safety": ((3 / 1.2, 3 / 1.5, 3 / 2, 1.0), 3.0),
}


@pytest.mark.parametrize("grid", GRIDS)
@settings(max_examples=25, deadline=None)
@given(looks=_LOOKS)
def test_evidence_is_that_of_the_formula_in_80_digits(grid: str, looks: list[Counts]) -> None:
    ratios, null = GRIDS[grid]
    process = ShareProcess(ratios, null)
    for counts in looks:
        process.fold(counts)
    exact = exact_share(ratios, null, looks)
    assert math.isclose(float(process.log_e), exact, rel_tol=CLOSE, abs_tol=CLOSE)


def test_evidence_of_a_whole_rollout_is_that_of_the_formula_in_80_digits() -> None:
    random = np.random.default_rng(5)
    looks = [Counts(25, 475, int(random.binomial(25, 0.03)), int(random.binomial(475, 0.01))) for _ in range(400)]
    process = ShareProcess(errors.RATIOS)
    for counts in looks:
        process.fold(counts)
    assert math.isclose(float(process.log_e), exact_share(errors.RATIOS, 1.0, looks), rel_tol=0, abs_tol=CLOSE)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 300), st.integers(0, 300))
def test_evidence_of_pairs_is_that_of_the_formula_in_80_digits(worse: int, better: int) -> None:
    process = SignProcess()
    process.fold(worse, better)
    chances = [Number(chance) for chance in sign.CHANCES]
    exact = exact_log([(2 * q) ** worse * (2 * (1 - q)) ** better for q in chances])
    assert math.isclose(float(process.log_e), exact, rel_tol=CLOSE, abs_tol=CLOSE)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100), st.floats(0.0001, 0.2)), max_size=8))
def test_evidence_of_one_rate_alone_is_that_of_the_formula_in_80_digits(looks: list[tuple[int, int, float]]) -> None:
    process = BernoulliProcess(0.02)
    products = [Number(1), Number(1)]
    for n, bad, above in looks:
        x = min(n, bad)
        process.fold(n, x, above)
        for position, part in enumerate((Number(0.05), Number(0.2))):
            bound, less = Number(above) + Number(0.02), Number(above) + part * Number(0.02)
            products[position] *= (less / bound) ** x * ((1 - less) / (1 - bound)) ** (n - x)
    assert math.isclose(float(process.log_e), exact_log(products), rel_tol=CLOSE, abs_tol=CLOSE)


def test_evidence_over_a_fine_grid_is_villes_beta_binomial_mixture() -> None:
    """With ratios whose shares lie evenly in (0, 1), the mean over them is the integral that ville has in closed form.

    The midpoint rule's error falls with the square of the grid: 200,000 points leave less than 1e-9.
    """
    random = np.random.default_rng(3)
    is_candidates = (random.random(120) < 0.4).astype(float)
    shares = (np.arange(200_000) + 0.5) / 200_000
    process = ShareProcess(list(shares / (1 - shares) * 3), 1.0)
    for one in is_candidates:
        process.fold(Counts(10, 30, int(one), int(1 - one)))
    told = ville.BernoulliTest(p0=0.25).update(is_candidates)
    assert math.isclose(float(process.log_e), float(told.log_e_values_[-1]), abs_tol=CLOSE)


def test_evidence_of_pairs_over_a_fine_grid_is_villes_beta_binomial_mixture() -> None:
    random = np.random.default_rng(4)
    is_worse = (random.random(150) < 0.6).astype(float)
    process = SignProcess(list((np.arange(200_000) + 0.5) / 200_000))
    process.fold(int(is_worse.sum()), int(len(is_worse) - is_worse.sum()))
    told = ville.BernoulliTest(p0=0.5).update(is_worse)
    assert math.isclose(float(process.log_e), float(told.log_e_values_[-1]), abs_tol=CLOSE)
