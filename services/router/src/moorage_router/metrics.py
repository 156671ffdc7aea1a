"""What the router counts. Names of tenants and models come from routes and limits only, never from a caller."""

from collections.abc import Callable, Iterable

from moorage_common.metrics import LATENCY_BUCKETS_S, TenantSeries
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class VersionSeries:
    """The series of one version of a model, looked up once."""

    __slots__ = ("_by_code", "_child", "observe")

    def __init__(self, child: Callable[[str], Counter], duration: Histogram) -> None:
        self._child = child
        self._by_code: dict[int, Counter] = {}
        self.observe = duration.observe

    def count(self, status: int) -> None:
        counter = self._by_code.get(status)
        if counter is None:
            counter = self._by_code[status] = self._child(str(status))
        counter.inc()


class RouterMetrics:
    """One registry of the process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.series = TenantSeries(self.registry)
        self._requests = Counter(
            "moorage_router_requests", "Inference requests answered.", ["tenant", "model", "version", "code"],
            registry=self.registry,
        )  # fmt: skip
        self._duration = Histogram(
            "moorage_router_request_duration_seconds", "From the request's head to its answer.",
            ["tenant", "model", "version"], registry=self.registry, buckets=LATENCY_BUCKETS_S,
        )  # fmt: skip
        self.refused = Counter(
            "moorage_router_refused", "Requests refused before a version was chosen.", ["code"], registry=self.registry
        )
        self.retries = Counter(
            "moorage_router_retries", "Calls to a host made again.", ["reason"], registry=self.registry
        )
        self._versions: dict[tuple[str, str, int], VersionSeries] = {}

    def version(self, tenant: str, model: str, number: int) -> VersionSeries:
        """Series of a version that a route names."""
        key = (tenant, model, number)
        held = self._versions.get(key)
        if held is None:
            duration = self.series.child(self._duration, tenant, model, str(number))
            held = VersionSeries(
                lambda code: self.series.child(self._requests, tenant, model, str(number), code), duration
            )
            self._versions[key] = held
        return held

    def gauges(self, read: Callable[[], Iterable[Metric]]) -> None:
        """Let each scrape call `read` for what is true at that moment."""
        self.registry.register(_AtScrape(read))


class _AtScrape(Collector):
    def __init__(self, read: Callable[[], Iterable[Metric]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        return self._read()


def gauge(name: str, text: str, labels: list[str], rows: Iterable[tuple[tuple[str, ...], float]]) -> GaugeMetricFamily:
    """A gauge family from its rows of label values and value."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, number in rows:
        family.add_metric(values, number)
    return family
