"""How long replicas take from the decision to their first readiness: what a caller who waits for one is told."""

import statistics
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from moorage_scheduler.hosts import Host, VersionKey
from moorage_scheduler.metrics import SchedulerMetrics

OF_A_VERSION = 8
OF_A_FORMAT = 32
MOST_VERSIONS = 10_000
SOON_S = 0.5
"""Said of a start that takes longer than such starts did."""
_WARM = "_warm."
"""Names of hosts that were started ahead of their version begin so."""


def _last(count: int) -> Callable[[], deque[float]]:
    return lambda: deque(maxlen=count)


@dataclass
class StartTimes:
    """The last starts of each version and of each format, of this leader's own hosts.

    Attributes:
        format_of: a version's format; None where it is not wanted any more.
    """

    metrics: SchedulerMetrics
    format_of: Callable[[VersionKey], str | None]
    _versions: dict[VersionKey, deque[float]] = field(default_factory=lambda: defaultdict(_last(OF_A_VERSION)))
    _formats: dict[str, deque[float]] = field(default_factory=lambda: defaultdict(_last(OF_A_FORMAT)))
    _measured: set[str] = field(default_factory=set)

    def adopted(self, host_ids: Iterable[str]) -> None:
        """These were started by another scheduler: when they were ready is not known."""
        self._measured.update(host_ids)

    def changed(self, host: Host, *, present: bool) -> None:
        """Take note of a host that became ready for the first time, or is gone."""
        host_id = host.placed.host_id
        if not present:
            self._measured.discard(host_id)
        elif host.ready_at is not None and host.placed.purpose == "replica" and host_id not in self._measured:
            self._measured.add(host_id)
            kind = "warm" if host_id.startswith(_WARM) else "cold"
            self._took(host.key, kind, host.ready_at - host.placed.started_at)

    def _took(self, key: VersionKey, kind: str, seconds: float) -> None:
        format_name = self.format_of(key)
        self._versions[key].append(seconds)
        if len(self._versions) > MOST_VERSIONS:
            del self._versions[next(iter(self._versions))]
        if format_name is not None:
            self._formats[format_name].append(seconds)
        self.metrics.start_seconds.labels(kind, format_name or "unknown").observe(seconds)

    def expected_s(self, key: VersionKey) -> float | None:
        """The median of the version's last starts, else of its format's; None where there were none."""
        format_name = self.format_of(key)
        taken = self._versions.get(key) or (self._formats.get(format_name) if format_name is not None else None)
        return statistics.median(taken) if taken else None

    def ready_in_s(self, key: VersionKey, hosts: Iterable[Host], now: float | None = None) -> float | None:
        """Seconds until a version should be ready; what its host that starts has behind it is taken off.

        Args:
            now: seconds since 1970.
        """
        now = time.time() if now is None else now
        expected = self.expected_s(key)
        if expected is None:
            return None
        begun = [h.placed.started_at for h in hosts if h.key == key and h.state in ("starting", "loading")]
        return max(SOON_S, expected - (now - min(begun))) if begun else expected
