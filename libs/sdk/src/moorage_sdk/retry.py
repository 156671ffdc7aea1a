"""When a call is sent again: decided from what is known of its failure, without a clock and without sending.

| failure | sent again |
|---|---|
| the connection could not be made: not a byte was sent | yes |
| 429 or 503 with Retry-After | yes, after that time and a little more |
| a kept connection was closed without a byte of the answer | once, at once, where repeating does no harm |
| 429 or 503 without Retry-After, 502, 504, an answer that broke off | calls that only read |
| no answer in time | never: the work may be under way, and the time is spent |

A wait that would not end within the call's own time, or longer than the policy allows, is not begun: the caller gets
the failure, with the time to wait, at once.
"""

import enum
from dataclasses import dataclass

RETRIED_WHEN_TOLD = frozenset({429, 503})
RETRIED_WHEN_READING = frozenset({429, 502, 503, 504})


class Repeat(enum.Enum):
    """What doing a call twice would do."""

    READS = "reads"
    """Nothing: it only reads."""
    COMPUTES = "computes"
    """Compute, and be billed for, the same answer again: inference of a model whose format holds data alone."""
    ACTS = "acts"
    """Something unknown."""


@dataclass(frozen=True, slots=True)
class Unsent:
    """Not a byte of the request left: no connection could be made, or none was free in time."""

    cause: Exception


@dataclass(frozen=True, slots=True)
class Lost:
    """The request went out, at least in part, and no whole answer came.

    Attributes:
        in_time: the connection ended, rather than the time.
        kept: the connection had been used before, and closed without a byte of the answer: most likely the server
            closed it as idle, or ended, while the request was on its way.
    """

    cause: Exception
    in_time: bool = True
    kept: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """An answer of another status than 2xx."""

    status: int
    retry_after_s: float | None = None


Failure = Unsent | Lost | Refused


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how long.

    Args:
        retries: times a call is sent again at most; 0 switches it off.
        first_wait_s: mean wait before the first of them, doubled for each further one and jittered by half.
        longest_wait_s: no wait is longer; a longer Retry-After ends the call.
    """

    retries: int = 2
    first_wait_s: float = 0.1
    longest_wait_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Wait:
    """Send again after so long."""

    seconds: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Tell the caller."""


def decide(
    policy: RetryPolicy, failure: Failure, repeat: Repeat, *, sent: int, left_s: float, draw: float
) -> Wait | GiveUp:
    """Whether to send again.

    Args:
        sent: times the call was sent so far, at least 1.
        left_s: seconds left of the call's own time.
        draw: a random number of [0, 1), so that many callers do not come back at once.
    """
    if sent > policy.retries:
        return GiveUp()
    backoff_s = min(policy.longest_wait_s, policy.first_wait_s * 2 ** (sent - 1)) * (0.5 + draw)
    wait_s = _wait_s(failure, repeat, sent, backoff_s)
    if wait_s is None or wait_s > policy.longest_wait_s * 1.5 or wait_s >= left_s:
        return GiveUp()
    return Wait(wait_s)


def _wait_s(failure: Failure, repeat: Repeat, sent: int, backoff_s: float) -> float | None:
    match failure:
        case Unsent():
            return backoff_s
        case Refused(status, float(retry_after_s)) if status in RETRIED_WHEN_TOLD:
            return retry_after_s + backoff_s
        case Refused(status, told_s) if status in RETRIED_WHEN_READING and repeat is Repeat.READS:
            return (told_s or 0.0) + backoff_s
        case Lost(in_time=True) if repeat is Repeat.READS:
            return backoff_s
        case Lost(in_time=True, kept=True) if repeat is Repeat.COMPUTES and sent == 1:
            return 0.0
    return None
