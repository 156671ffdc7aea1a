"""Deaths of hosts in a row, and when they speak against their version. Pure."""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

CRASHES = 3
POOL_CRASHES = 12
"""A pool finds out by itself which of its versions brings it down, and goes on without that one."""
LASTING_S = 60.0
"""A death while a host of the version was ready for this long begins a new row."""


@dataclass
class Crashes:
    """By version, or pool. A death with the node is none of these: `forget` it."""

    _rows: dict[Hashable, int] = field(default_factory=dict)

    def count(self, key: Hashable, ready_since: Iterable[float | None], now: float) -> None:
        """One more death.

        Args:
            ready_since: of the host that died, and of those of the same version that serve: what can serve is not at
                fault. None for one that was never ready.
        """
        lasted = any(since is not None and now - since >= LASTING_S for since in ready_since)
        self._rows[key] = 1 if lasted else self._rows.get(key, 0) + 1

    def in_a_row(self, key: Hashable) -> int:
        return self._rows.get(key, 0)

    def forget(self, key: Hashable) -> None:
        self._rows.pop(key, None)


def first_line(error: Exception) -> str:
    """What tenants are told of a fault: what Ray says after it is of the node and whatever else runs there."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
