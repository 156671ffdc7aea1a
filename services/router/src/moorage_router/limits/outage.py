"""What was admitted while the store was away, to be told when it is back."""

from moorage_router.limits.buckets import Bucket

MOMENT_S = 1.0
"""A store away for less was late, and may have served others meanwhile."""


class Outage:
    """How much of the burst would be in use had the store seen what was admitted without it.

    So an outage does not hand out a fresh burst at its end.
    """

    __slots__ = ("_at", "_began", "_level", "_spent")

    def __init__(self) -> None:
        self._level = 0.0
        self._at = 0.0
        self._began = 0.0
        self._spent = False

    def spend(self, now: float, tokens: float, bucket: Bucket) -> None:
        """`tokens` were admitted, here and, by this router's share, elsewhere."""
        if not self._spent:
            self._began = now
        left = max(0.0, self._level - (now - self._at) * bucket.rate)
        self._level, self._at, self._spent = min(left + tokens, bucket.burst), now, True

    def in_use(self, now: float, bucket: Bucket) -> float:
        """Tokens to tell the store; 0 without an outage since the last answer, or with a moment's.

        A moment's, in which the bucket did not fill to the brim, is paid for token by token instead.
        """
        if not self._spent or now - self._began <= min(MOMENT_S, bucket.burst / bucket.rate):
            return 0.0
        return max(0.0, self._level - (now - self._at) * bucket.rate)

    def over(self, now: float, in_use: float) -> None:
        """The store answered, and knows."""
        self._level, self._at, self._spent = in_use, now, False
