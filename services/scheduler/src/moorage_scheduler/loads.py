"""What routers report of the load: in-flight by version, summed over routers, over the last minute."""

import time
from collections import defaultdict, deque
from dataclasses import dataclass, field

import structlog
from pydantic import ValidationError

from moorage_common.contracts.load import LoadReport, Wake
from moorage_scheduler.autoscale import DOWN_WINDOW_S, Sample
from moorage_scheduler.hosts import VersionKey

log = structlog.get_logger()

SILENT_S = 3.5
"""A router that has not reported for this long counts nothing."""


@dataclass
class LoadBoard:
    """The latest report of each router and a sample a second of each version."""

    _reports: dict[str, tuple[float, LoadReport]] = field(default_factory=dict)
    _samples: dict[VersionKey, deque[Sample]] = field(default_factory=lambda: defaultdict(lambda: deque(maxlen=240)))
    _woken: dict[VersionKey, float] = field(default_factory=dict)

    def report(self, payload: bytes) -> None:
        """Take a router's `LoadReport`."""
        try:
            report = LoadReport.model_validate_json(payload)
        except ValidationError as error:
            log.warning("unreadable load report", errors=error.error_count())
            return
        self._reports[report.router] = (time.time(), report)

    def wake(self, payload: bytes) -> None:
        """Take a router's `Wake`."""
        try:
            wake = Wake.model_validate_json(payload)
        except ValidationError as error:
            log.warning("unreadable wake request", errors=error.error_count())
            return
        self._woken[(wake.tenant, wake.model, wake.version)] = time.time()

    def sample(self, now: float) -> None:
        """Add a sample of every version that routers have in flight, and of those that had within the window."""
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

    def woken_at(self, key: VersionKey) -> float:
        """When a router last asked for the version, or last sent it a request; 0 for never."""
        busy = max((sample.at for sample in self._samples.get(key, ()) if sample.in_flight), default=0.0)
        if busy:
            self._woken[key] = busy
        return self._woken.get(key, 0.0)

    def heard(self, now: float) -> bool:
        """Whether any router reports: with the bus away, autoscaling holds what it has."""
        return any(now - at <= SILENT_S for at, _report in self._reports.values())
