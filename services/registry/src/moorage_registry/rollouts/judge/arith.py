"""Logarithm and exponential of additions, multiplications and divisions alone.

Those are exact by IEEE 754, whereas a library's `log` differs in the last bit from one processor to the next. So a
rollout that another machine replays gives the same evidence to the bit, and arrays give what scalars give.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_LN2_HIGH = 6.93147180369123816490e-01
_LN2_LOW = 1.90821492927058770002e-10
_ROOT_HALF = 0.70710678118654752440
_ATANH = [1.0 / (2 * k + 1) for k in range(11)]
_TAYLOR = [1.0]
for _k in range(1, 15):
    _TAYLOR.append(_TAYLOR[-1] / _k)


def ln(x: npt.ArrayLike) -> Floats:
    """Natural logarithm of positive finite numbers, elementwise, within 2 units in the last place."""
    mantissa, exponent = np.frexp(np.asarray(x, dtype=np.float64))
    low = mantissa < _ROOT_HALF
    mantissa = np.where(low, mantissa * 2.0, mantissa)
    exponent = exponent - low
    s = (mantissa - 1.0) / (mantissa + 1.0)
    return np.asarray(exponent * _LN2_HIGH + (exponent * _LN2_LOW + 2.0 * s * _horner(_ATANH, s * s)))


def exp(x: npt.ArrayLike) -> Floats:
    """Exponential of numbers up to 700, elementwise; 0 below -708."""
    raw = np.asarray(x, dtype=np.float64)
    clipped = np.maximum(raw, -708.0)
    k = np.floor(clipped * 1.4426950408889634 + 0.5)
    r = (clipped - k * _LN2_HIGH) - k * _LN2_LOW
    return np.where(raw < -708.0, 0.0, np.ldexp(_horner(_TAYLOR, r), k.astype(np.int64)))


def threshold(alpha: float) -> float:
    """What ln E has to reach: ln(1/alpha)."""
    return float(ln(1.0 / alpha))


def log_mean_exp(logs: Floats) -> Floats:
    """ln of the mean of exp(logs) over the first axis; the others stay."""
    top = logs.max(axis=0)
    # `cumsum` adds one after the other whatever the layout is, where `sum` pairs up as it likes.
    total = np.cumsum(exp(logs - top), axis=0)[-1]
    return np.asarray(top + ln(total) - ln(float(len(logs))))


def _horner(coefficients: list[float], x: Floats) -> Any:
    total = x * coefficients[-1] + coefficients[-2]
    for coefficient in reversed(coefficients[:-2]):
        total = total * x + coefficient
    return total
