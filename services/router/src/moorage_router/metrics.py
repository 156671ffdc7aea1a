"""What the router counts. Names of tenants and models come from routes and limits only, never from a caller."""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from moorage_common.contracts.stats import VersionStats
from moorage_common.metrics import LATENCY_BUCKETS_S, OVERFLOW, TenantSeries

_START_BUCKETS_S = (0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0)


class VersionSeries:
    """What is counted of one version of a model: plain numbers, made into series when scraped."""

    __slots__ = ("by_code", "failed_s", "labels", "last", "model_us", "rows", "seconds", "slots")

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = list(labels)
        self.by_code: dict[int, int] = {}
        self.slots = [0] * (len(LATENCY_BUCKETS_S) + 1)
        self.seconds = 0.0
        self.failed_s = 0.0
        self.rows = 0
        self.model_us = 0
        self.last = 0.0

    @property
    def own(self) -> bool:
        """Whether this counts one version alone: beyond the tenant's cap versions share one."""
        return self.labels[-1] != OVERFLOW

    def count(self, status: int, took_s: float, rows: int = 0, model_us: int = 0) -> None:
        """One request was answered; `rows` and microseconds in the model count only with 200."""
        self.by_code[status] = self.by_code.get(status, 0) + 1
        self.slots[bisect_left(LATENCY_BUCKETS_S, took_s)] += 1
        self.seconds += took_s
        self.last = time.time()
        if status == 200:
            self.rows += rows
            self.model_us += model_us
        else:
            self.failed_s += took_s

    def stats(self, model: str, number: int) -> VersionStats:
        """The sums as routers tell them each other."""
        success = self.by_code.get(200, 0)
        return VersionStats(
            model=model, version=number, success=success, failed=sum(self.by_code.values()) - success,
            success_us=round((self.seconds - self.failed_s) * 1e6), failed_us=round(self.failed_s * 1e6),
            rows=self.rows, model_us=self.model_us, last_ms=int(self.last * 1000),
        )  # fmt: skip

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by upper bound, as Prometheus wants them."""
        bounds = [*(str(bound) for bound in LATENCY_BUCKETS_S), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self.slots)), strict=True))


class RouterMetrics:
    """One registry of the process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.series = TenantSeries(self.registry)
        self.refused = Counter(
            "moorage_router_refused", "Requests refused before a version was chosen.", ["code"], registry=self.registry
        )
        self.retries = Counter(
            "moorage_router_retries", "Calls to a host made again.", ["reason"], registry=self.registry
        )
        self.wakes = Counter(
            "moorage_router_wakes", "Requests to a scheduler to start a version.", ["outcome"], registry=self.registry
        )
        self.feedback = Counter(
            "moorage_router_feedback", "Labels by what became of them.", ["outcome"], registry=self.registry
        )
        self.outputs_lost = Counter(
            "moorage_router_outputs_lost", "Kept outputs dropped for want of room.", registry=self.registry
        )
        self.wake_to_answer = Histogram(
            "moorage_router_wake_to_answer_seconds",
            "From the first wake of a version without replicas to its first answer.",
            buckets=_START_BUCKETS_S,
            registry=self.registry,
        )
        self._versions: dict[tuple[str, ...], VersionSeries] = {}
        self.gauges(self._requests)

    def version(self, tenant: str, model: str, number: int) -> VersionSeries:
        """Series of a version that a route names; shared by all beyond the tenant's cap."""
        labels = tuple(self.series.labels(tenant, model, str(number)))
        held = self._versions.get(labels)
        if held is None:
            held = self._versions[labels] = VersionSeries(labels)
        return held

    def _requests(self) -> Iterable[Metric]:
        names = ["tenant", "model", "version"]
        requests = CounterMetricFamily(
            "moorage_router_requests", "Inference requests answered.", labels=[*names, "code"]
        )
        duration = HistogramMetricFamily(
            "moorage_router_request_duration_seconds", "From the request's head to its answer.", labels=names
        )
        for series in self._versions.values():
            for status, count in series.by_code.items():
                requests.add_metric([*series.labels, str(status)], count)
            duration.add_metric(series.labels, series.buckets(), sum_value=series.seconds)
        yield requests
        yield duration

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


def counter(
    name: str, text: str, labels: list[str], rows: Iterable[tuple[tuple[str, ...], float]]
) -> CounterMetricFamily:
    """A counter family from its rows of label values and number."""
    family = CounterMetricFamily(name, text, labels=labels)
    for values, number in rows:
        family.add_metric(values, number)
    return family
