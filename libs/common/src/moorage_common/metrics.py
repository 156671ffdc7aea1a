"""Prometheus metrics that carry the tenant, with a cap on series, so that no tenant can fill a process's memory."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

M = TypeVar("M", bound=MetricWrapperBase)

SERIES_A_TENANT = 2000
OVERFLOW = "__overflow__"

LATENCY_BUCKETS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip


@dataclass
class TenantSeries:
    """Label values of tenants, capped: after 2,000 label sets a tenant's further ones share `__overflow__`.

    The first label is the tenant. Names must come from the registry, never from a caller.
    """

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    limit: int = SERIES_A_TENANT
    _known: dict[str, set[tuple[str, ...]]] = field(default_factory=lambda: defaultdict(set))

    def labels(self, tenant: str, *rest: str) -> Sequence[str]:
        """The label values to use for this set: itself, or overflow beyond the cap."""
        known = self._known[tenant]
        if rest not in known:
            if len(known) >= self.limit:
                return (tenant, *([OVERFLOW] * len(rest)))
            known.add(rest)
        return (tenant, *rest)

    def child(self, metric: M, tenant: str, *rest: str) -> M:
        """`metric.labels(...)` with the cap applied."""
        return metric.labels(*self.labels(tenant, *rest))
