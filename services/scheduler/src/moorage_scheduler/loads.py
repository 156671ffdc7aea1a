"""What routers report of the load: in-flight by version, summed over routers, over the last minute."""

from collections import defaultdict, deque
from collections.abc import Collection
from dataclasses import dataclass, field

import structlog
from pydantic import ValidationError

from moorage_common.clock import Clock, wall_clock
from moorage_common.contracts.load import LoadReport, Wake
from moorage_scheduler.autoscale import DOWN_WINDOW_S, Sample
from moorage_scheduler.hosts import VersionKey

log = structlog.get_logger()

SAMPLE_S = 1.0
SILENT_S = 3.5
"""A router that has not reported for this long counts nothing."""
WAITED_S = 8.0
"""Routers ask again every 5 s while requests wait."""


@dataclass
class LoadBoard:
    """The latest report of each router and a sample a second of each version."""

    clock: Clock = wall_clock
    _reports: dict[str, tuple[float, LoadReport]] = field(default_factory=dict)
    _samples: dict[VersionKey, deque[Sample]] = field(default_factory=lambda: defaultdict(lambda: deque(maxlen=240)))
    _asked: dict[VersionKey, float] = field(default_factory=dict)
    _woken: dict[VersionKey, float] = field(default_factory=dict)
    _sampled_at: float = 0.0
    _heard_at: float = 0.0
    heard_since: float = 0.0
    """Since when a router was always heard: of the time before nothing is known."""

    def report(self, payload: bytes) -> None:
        """Take a router's `LoadReport`."""
        try:
            report = LoadReport.model_validate_json(payload)
        except ValidationError as error:
            log.warning("unreadable load report", errors=error.error_count())
            return
        now = self._hear()
        self._reports[report.router] = (now, report)
        for load in report.loads:
            if load.requests or load.in_flight or load.queued:
                self._asked[load.tenant, load.model, load.version] = now

    def wake(self, payload: bytes) -> VersionKey | None:
        """Take a router's `Wake`; whose it is, or None where it cannot be read."""
        try:
            wake = Wake.model_validate_json(payload)
        except ValidationError as error:
            log.warning("unreadable wake request", errors=error.error_count())
            return None
        key = (wake.tenant, wake.model, wake.version)
        self._asked[key] = self._woken[key] = self._hear()
        return key

    def _hear(self) -> float:
        now = self.clock()
        if not self.heard(now):
            self.heard_since = now
        self._heard_at = now
        return now

    def sample(self, now: float) -> None:
        """Add a sample of every version that routers have in flight, and of those that had within the window.

        At most one a second: a step of the scheduler between two changes nothing of what was in flight.
        """
        if 0 <= now - self._sampled_at < 0.9 * SAMPLE_S:
            return
        self._sampled_at = now
        in_flight: dict[VersionKey, int] = defaultdict(int)
        self._reports = {name: held for name, held in self._reports.items() if now - held[0] <= SILENT_S}
        for _at, report in self._reports.values():
            for load in report.loads:
                in_flight[(load.tenant, load.model, load.version)] += load.in_flight + load.queued
        for key in {*in_flight, *self._samples}:
            samples = self._samples[key]
            samples.append(Sample(now, in_flight.get(key, 0)))
            while samples and now - samples[0].at > DOWN_WINDOW_S:
                samples.popleft()
            if not any(sample.in_flight for sample in samples):
                del self._samples[key]

    def samples(self, key: VersionKey) -> list[Sample]:
        return list(self._samples.get(key, ()))

    def asked_at(self, key: VersionKey) -> float:
        """When a router last asked for the version, or last sent it a request; 0 for never."""
        return self._asked.get(key, 0.0)

    def is_waited_for(self, key: VersionKey, now: float) -> bool:
        """Whether requests wait for the version at some router, which asked for it lately."""
        return now - self._woken.get(key, 0.0) <= WAITED_S

    def keep(self, wanted: Collection[VersionKey]) -> None:
        """Forget versions that are not among these."""
        for known in (self._asked, self._woken):
            for key in known.keys() - set(wanted):
                del known[key]

    def heard(self, now: float) -> bool:
        """Whether any router reports or asks: with the bus away, autoscaling holds what it has."""
        return now - self._heard_at <= SILENT_S
