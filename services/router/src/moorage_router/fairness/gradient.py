"""How many requests a place works on at once: Gradient2 of Netflix's concurrency-limits. Pure.

As Gradient2Limit there: gradient = min(1, max(.5, tolerance * long / short)), limit' = gradient * limit + 4, smoothed
by .2, and no growth while less than half of it is used. Ours: long and short are sums over what answered in the window,
long of what each version usually takes, so that another mix of versions is no sign of a full place; and
windows are of 100 ms, so that a limit grows by 8 a second, while what is usual still follows over 600 s.
"""

SMOOTHING = 0.2
QUEUE = 4
TOLERANCE = 1.5
WINDOW_S = 0.1
LONG_WINDOW_S = 600.0
LEAST_SAMPLES = 10
_WARM_UP = 10
_FACTOR = 2 / (LONG_WINDOW_S / WINDOW_S + 1)
_DRIFT = 0.95 ** (WINDOW_S / 1.0)
"""A second's .95 of the original, by window."""


class Usual:
    """What a version usually takes, seconds: the mean of ten windows, then one over 600 s (ExpAvgMeasurement)."""

    __slots__ = ("_count", "_ends", "_number", "_sum", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self._count = 0
        self._number = 0
        self._sum = 0.0
        self._ends = 0.0

    def add(self, took_s: float, now: float) -> float:
        """Take one answer's time; what is usual until now."""
        self._sum += took_s
        self._number += 1
        if now >= self._ends and self._number:
            self._window(self._sum / self._number)
            self._sum, self._number, self._ends = 0.0, 0, now + WINDOW_S
        return self.value

    def _window(self, short: float) -> None:
        if self._count < _WARM_UP:
            self._count += 1
            self.value += (short - self.value) / self._count
        else:
            self.value += (short - self.value) * _FACTOR
        if self.value > 2 * short:
            self.value *= _DRIFT


class Gradient2:
    """One place's limit. `limit` is read by whoever admits; `least` may change with the number of hosts."""

    __slots__ = ("_busiest", "_ends", "_estimate", "_long", "_number", "_short", "least", "limit", "most")

    def __init__(self, initial: int, least: int, most: int) -> None:
        self.limit = initial
        self.least = least
        self.most = most
        self._estimate = float(initial)
        self._busiest = 0
        self._number = 0
        self._long = 0.0
        self._short = 0.0
        self._ends = 0.0

    def add(self, took_s: float, usual_s: float, running: int, now: float) -> None:
        """Take one answer's time, what is usual for its version, and how many ran beside it."""
        self._short += took_s
        self._long += usual_s
        self._number += 1
        self._busiest = max(self._busiest, running)
        if now >= self._ends and self._number >= LEAST_SAMPLES:
            self._update()
            self._number, self._busiest, self._ends = 0, 0, now + WINDOW_S
            self._short = self._long = 0.0

    def bound(self, least: int) -> None:
        """Let the limit be at least so much from now on."""
        self.least = min(least, self.most)
        self._estimate = max(self._estimate, float(self.least))
        self.limit = int(self._estimate)

    def _update(self) -> None:
        if self._busiest >= self._estimate / 2:
            gradient = max(0.5, min(1.0, TOLERANCE * self._long / max(self._short, 1e-9)))
            wanted = self._estimate * gradient + QUEUE
            self._estimate = self._estimate * (1 - SMOOTHING) + wanted * SMOOTHING
        self._estimate = max(float(self.least), min(float(self.most), self._estimate))
        self.limit = int(self._estimate)
