"""How large a batch may be and where it runs, decided from measured times alone; there is no clock in here.

A predict in the event loop costs no hand-over between threads (0.1 ms and more where threads contend for the
interpreter) but holds up every other request, so only what is measured to be short runs there.
"""

from dataclasses import dataclass
from typing import Literal

INLINE_S = 0.002
"""The most that predicts may take of one turn of the event loop, all versions together."""

SURPRISE_S = 0.010
"""A predict that held the event loop for this long..."""

BANISHED_S = 30.0
"""...sends its version to its thread for this long."""

_DOUBT, _TRUST = 0.5, 0.1
"""Weights of a measurement above and below the average: quick to doubt, slow to trust."""

_SIZES = 32


class Pace:
    """Moving averages of one version's predicts, by the power of two that their rows come under.

    `inline` is what a predict would take of the event loop: the wall time of one that ran there, and of one in the
    thread its processor time, since in a thread much of the wall time may be waiting for the interpreter.
    `whole` is the wall time, wherever it ran.
    """

    __slots__ = ("_inline", "_whole", "banished_until")

    def __init__(self) -> None:
        self._inline: list[float | None] = [None] * _SIZES
        self._whole: list[float | None] = [None] * _SIZES
        self.banished_until = 0.0

    def record(self, rows: int, *, inline_s: float, whole_s: float) -> None:
        """Take one predict into the averages."""
        size = _size(rows)
        self._inline[size] = _moved(self._inline[size], inline_s)
        self._whole[size] = _moved(self._whole[size], whole_s)

    def surprised(self, now: float) -> None:
        """A predict in the event loop took SURPRISE_S or more."""
        self.banished_until = now + BANISHED_S

    def inline_s(self, rows: int) -> float | None:
        """What a predict of `rows` would take of the event loop; None when nothing was measured."""
        return _expected(self._inline, rows)

    def whole_s(self, rows: int) -> float | None:
        """How long a predict of `rows` takes; None when nothing was measured."""
        return _expected(self._whole, rows)


def _size(rows: int) -> int:
    return min((rows - 1).bit_length(), _SIZES - 1)


def _moved(average: float | None, measured: float) -> float:
    if average is None:
        return measured
    return average + (measured - average) * (_DOUBT if measured > average else _TRUST)


def _expected(averages: list[float | None], rows: int) -> float | None:
    """That of the size; else the next smaller size's as if all of it grew with the rows; else the next larger one's."""
    size = _size(rows)
    for smaller in range(size, -1, -1):
        average = averages[smaller]
        if average is not None:
            return float(average * 2 ** (size - smaller))
    return next((average for average in averages[size:] if average is not None), None)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a batch runs: in the event loop, or in the version's thread.

    `fast`: measured to fit what is left of this turn of the loop; inline. All others go to the thread:
    `unknown`: never measured; `slow`: does not fit any turn; `turn_spent`: other versions took this turn;
    `banished`: it held up the loop not long ago; `unfit`: the model waits for a device, or may run in its thread only.
    """

    why: Literal["fast", "unknown", "slow", "turn_spent", "banished", "unfit"]

    @property
    def inline(self) -> bool:
        return self.why == "fast"


def place(pace: Pace, rows: int, *, now: float, spent_s: float, within_s: float = INLINE_S) -> Place:
    """Where a batch of `rows` runs.

    Args:
        spent_s: what predicts have taken of this turn of the event loop.
        within_s: the most that this model's predict may take of a turn; 0 keeps it in its thread.
    """
    if within_s <= 0:
        return Place("unfit")
    if now < pace.banished_until:
        return Place("banished")
    expected = pace.inline_s(rows)
    if expected is None:
        return Place("unknown")
    if expected > within_s:
        return Place("slow")
    return Place("turn_spent") if spent_s and spent_s + expected > INLINE_S else Place("fast")


def most_rows(pace: Pace, *, max_batch: int, slack_s: float) -> int:
    """Rows that a batch may have so that, by what was measured, it ends within `slack_s`; at least 1.

    Args:
        slack_s: until the deadline of the oldest request in the batch.
    """
    most = max_batch
    while most > 1 and (pace.whole_s(most) or 0.0) > slack_s:
        most //= 2
    return most
