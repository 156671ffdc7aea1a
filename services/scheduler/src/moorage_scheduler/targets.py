"""How many hosts each version should have now: what routers report, through the pure rule of `autoscale`."""

from collections.abc import Collection
from dataclasses import dataclass, field

from moorage_common.contracts.desired import DesiredVersion
from moorage_scheduler.autoscale import Bounds, Scale, rescale
from moorage_scheduler.hosts import VersionKey
from moorage_scheduler.loads import LoadBoard


@dataclass
class Targets:
    """The scale of every version that is wanted."""

    loads: LoadBoard
    _scales: dict[VersionKey, Scale] = field(default_factory=dict)

    def of(self, key: VersionKey, version: DesiredVersion, present: int, now: float) -> int:
        """The number of hosts for one version.

        Args:
            present: hosts that it has; where a scheduler that just took over begins.
        """
        bounds = Bounds(version.min_replicas, version.max_replicas, version.target_in_flight, version.idle_s)
        scale = self._scales.get(key)
        if scale is None:
            scale = Scale(max(bounds.min_replicas, min(present, bounds.max_replicas)))
        if self.loads.heard(now) or scale.wanted < bounds.min_replicas or scale.wanted > bounds.max_replicas:
            asked_at = self.loads.asked_at(key)
            if scale.wanted:
                asked_at = max(asked_at, self.loads.heard_since)  # nobody knows what was asked before
            scale = rescale(bounds, scale, self.loads.samples(key), asked_at, now)
        self._scales[key] = scale
        return scale.wanted

    def last(self, key: VersionKey) -> int | None:
        """The number last decided for a version; None where there is none yet."""
        scale = self._scales.get(key)
        return None if scale is None else scale.wanted

    def keep(self, wanted: Collection[VersionKey]) -> None:
        """Forget versions that are not among these."""
        for key in self._scales.keys() - set(wanted):
            del self._scales[key]
        self.loads.keep(wanted)
