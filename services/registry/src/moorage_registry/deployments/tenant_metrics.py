"""A tenant's series as Prometheus text: the ledger's counters, which outlive every process, and the routers' own."""

from collections import Counter as Tally
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from moorage_common.contracts.desired import Status
from moorage_common.contracts.keys import TenantLimits
from moorage_common.contracts.names import TenantId
from moorage_common.metrics import SERIES_A_TENANT
from moorage_registry.deployments.status import held_gpu_milli

_LIMITS = ("requests_per_s", "burst", "max_concurrent", "max_body_bytes", "gpu_milli")
_COUNTED = {
    "requests": "Requests answered.",
    "errors": "Requests answered with an error.",
    "rows": "Rows predicted.",
    "bytes_in": "Bytes of request bodies.",
    "bytes_out": "Bytes of answers.",
    "busy_us": "Microseconds that models were busy.",
}


@dataclass(frozen=True)
class Series:
    """What is known of a tenant at one moment."""

    tenant: TenantId
    statuses: Sequence[Status]
    usage: Sequence[Mapping[str, int | str]]
    limits: TenantLimits
    in_flight: Mapping[tuple[str, int], int]
    routers: Sequence[Metric]


@dataclass(frozen=True, eq=False)
class _Snapshot(Collector):
    series: Series

    def collect(self) -> Iterator[Metric]:
        tenant, left = self.series.tenant, SERIES_A_TENANT
        for metric, samples in _families(self.series):
            for labels, value in samples:
                if left == 0:
                    break
                metric.add_metric([tenant, *labels], value)
                left -= 1
            yield metric
        for family in self.series.routers:
            family.samples = family.samples[:left]
            left -= len(family.samples)
            yield family


Samples = Iterable[tuple[Sequence[str], float]]
Family = GaugeMetricFamily | CounterMetricFamily


def _families(series: Series) -> Iterator[tuple[Family, Samples]]:
    by_version = ("tenant", "model", "version")
    limits = GaugeMetricFamily("moorage_quota_limit", "Limits of the tenant.", labels=("tenant", "limit"))
    yield limits, [((name,), float(getattr(series.limits, name))) for name in _LIMITS]
    replicas = Tally((s.model, str(r.version), r.state) for s in series.statuses for r in s.replicas)
    states = GaugeMetricFamily("moorage_replicas", "Replicas by state.", labels=(*by_version, "state"))
    yield states, [(place, float(count)) for place, count in sorted(replicas.items())]
    gpu = GaugeMetricFamily("moorage_gpu_milli_held", "GPU held, in thousandths of a device.", labels=by_version)
    yield gpu, _by_version(held_gpu_milli(series.statuses))
    flying = GaugeMetricFamily("moorage_in_flight", "Requests in flight in the routers.", labels=by_version)
    yield flying, _by_version(series.in_flight)
    for name, text in _COUNTED.items():
        counter = CounterMetricFamily(f"moorage_usage_{name}", text, labels=by_version)
        yield counter, [((str(row["model"]), str(row["version"])), float(row[name])) for row in series.usage]


def _by_version(counts: Mapping[tuple[str, int], int]) -> Samples:
    return [((model, str(version)), float(count)) for (model, version), count in sorted(counts.items())]


def render(series: Series) -> bytes:
    """Prometheus text; at most 2,000 series."""
    registry = CollectorRegistry()
    registry.register(_Snapshot(series))
    return generate_latest(registry)
