"""Which versions stay in memory: the lately used ones, within a budget. Pure."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Residents(Generic[K]):
    """Keys in memory with what each takes, the longest unused first."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.used_bytes = 0
        self._sizes: OrderedDict[K, int] = OrderedDict()

    def __contains__(self, key: K) -> bool:
        return key in self._sizes

    def __len__(self) -> int:
        return len(self._sizes)

    def touch(self, key: K) -> None:
        """`key` is used now. KeyError where it is not in memory."""
        self._sizes.move_to_end(key)

    def admit(self, key: K, size_bytes: int, busy: Callable[[K], bool] = lambda _key: False) -> list[K]:
        """Take in `key` (anew, if it is in) as the last used one; the keys that leave for it, longest unused first.

        The budget is kept unless what is `busy` and `key` itself exceed it alone.
        """
        self.drop(key)
        leaving = self._shed(self.used_bytes + size_bytes - self.budget_bytes, busy)
        self._sizes[key] = size_bytes
        self.used_bytes += size_bytes
        return leaving

    def excess_one(self, busy: Callable[[K], bool]) -> list[K]:
        """Take out the longest unused, whatever the budget says, and say which; none if all are busy."""
        return self._shed(1, busy)

    def _shed(self, short: int, busy: Callable[[K], bool]) -> list[K]:
        """Take out the longest unused until `short` bytes are free, and say which."""
        leaving: list[K] = []
        for key, size in self._sizes.items():
            if short <= 0:
                break
            if not busy(key):
                leaving.append(key)
                short -= size
        for key in leaving:
            self.drop(key)
        return leaving

    def drop(self, key: K) -> None:
        """Take out `key` if it is in."""
        self.used_bytes -= self._sizes.pop(key, 0)
