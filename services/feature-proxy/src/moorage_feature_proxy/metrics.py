"""What the feature-proxy counts, by tenant and feature service."""

from dataclasses import dataclass, field

from prometheus_client import Counter, Histogram

from moorage_common.metrics import LATENCY_BUCKETS_S, TenantSeries

UNKNOWN_SERVICE = "__unknown__"
"""Label of a service that the tenant does not have: a caller's text never becomes a label."""


@dataclass
class Metrics:
    """One set an app, on a registry of its own."""

    series: TenantSeries = field(default_factory=TenantSeries)

    def __post_init__(self) -> None:
        registry, labels = self.series.registry, ["tenant", "service"]
        self._requests = Counter(
            "moorage_features_requests_total", "Online lookups by status code.", [*labels, "code"], registry=registry
        )
        self._duration = Histogram(
            "moorage_features_duration_seconds",
            "Time of an online lookup in the proxy.",
            labels,
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self._rows = Counter("moorage_features_rows_total", "Rows looked up.", labels, registry=registry)
        self._absent = Counter(
            "moorage_features_absent_values_total",
            "Values that were missing or expired.",
            [*labels, "status"],
            registry=registry,
        )
        self.store_failures = Counter(
            "moorage_features_store_failures_total",
            "Reads of the online store that failed, by reason.",
            ["reason"],
            registry=registry,
        )

    def answered(self, tenant: str, service: str, code: int, duration_s: float) -> None:
        self.series.child(self._requests, tenant, service, str(code)).inc()
        self.series.child(self._duration, tenant, service).observe(duration_s)

    def served(self, tenant: str, service: str, rows: int, missing: int, expired: int) -> None:
        self.series.child(self._rows, tenant, service).inc(rows)
        for status, count in (("missing", missing), ("expired", expired)):
            if count:
                self.series.child(self._absent, tenant, service, status).inc(count)
