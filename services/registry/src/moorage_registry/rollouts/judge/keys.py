"""Keys whose first bad event has been counted: sticky traffic counts a key once, whichever router saw it."""

from collections.abc import Iterable

MOST = 200_000

_MASK = (1 << 64) - 1


class SeenKeys:
    """At most `most` keys.

    When there are more, half of all keys stop counting, seen or not, chosen by a hash of theirs that has nothing to do
    with the version they are given to: the evidence grows half as fast, and stays what it is.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._seen: set[int] = set()
        self._halvings = 0

    def __len__(self) -> int:
        return len(self._seen)

    def new(self, keys: Iterable[int]) -> int:
        """How many of `keys` count: those not seen before, which now are."""
        count = 0
        for key in keys:
            if key in self._seen or not self._counts(key):
                continue
            self._seen.add(key)
            count += 1
            while len(self._seen) > self._most:
                self._halvings += 1
                self._seen = {one for one in self._seen if self._counts(one)}
        return count

    def _counts(self, key: int) -> bool:
        return _mixed(key) & ((1 << self._halvings) - 1) == 0


def _mixed(key: int) -> int:
    """The finalizer of splitmix64 (Steele, Lea & Flood 2014)."""
    key = ((key ^ (key >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    key = ((key ^ (key >> 27)) * 0x94D049BB133111EB) & _MASK
    return key ^ (key >> 31)
