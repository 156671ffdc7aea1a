"""What is counted of copies of requests: plain numbers, made into series when scraped."""

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, Metric

from moorage_common.contracts.feedback import Output
from moorage_router.metrics import RouterMetrics
from moorage_router.mirrors import agree


class ShadowSeries:
    """Of one version that gets copies.

    Attributes:
        by_outcome: `ok`, `error` (another status), `late`, `lost`, or `unsent` (no host took it, or it lacks features).
        shed: copies not made, by reason.
        agreed: by `yes`, `no` and `unknown` (an output without a class or a number), of those both answered.
        own_us: microseconds in the model for those both answered; `served_us`: in the version that the caller got.
    """

    __slots__ = ("agreed", "by_outcome", "labels", "own_us", "served_us", "shed")

    def __init__(self, labels: list[str]) -> None:
        self.labels = labels
        self.by_outcome: dict[str, int] = {}
        self.shed: dict[str, int] = {}
        self.agreed: dict[str, int] = {}
        self.own_us = 0
        self.served_us = 0

    def left_out(self, reason: str) -> None:
        self.shed[reason] = self.shed.get(reason, 0) + 1

    def ended(self, outcome: str) -> None:
        self.by_outcome[outcome] = self.by_outcome.get(outcome, 0) + 1

    def both(self, served: Output | None, own: Output | None, served_us: int, own_us: int) -> None:
        """The caller's version and this one both answered with 200."""
        known = "unknown" if served is None or own is None else "yes" if agree(served, own) else "no"
        self.agreed[known] = self.agreed.get(known, 0) + 1
        self.own_us += own_us
        self.served_us += served_us


class ShadowTable:
    """By version; those beyond a tenant's cap of series share one."""

    def __init__(self, metrics: RouterMetrics) -> None:
        self._labels = metrics.series.labels
        self._held: dict[tuple[str, ...], ShadowSeries] = {}
        metrics.gauges(self._families)

    def of(self, tenant: str, model: str, version: int) -> ShadowSeries:
        labels = tuple(self._labels(tenant, model, str(version)))
        held = self._held.get(labels)
        if held is None:
            held = self._held[labels] = ShadowSeries(list(labels))
        return held

    def _families(self) -> Iterable[Metric]:
        names = ["tenant", "model", "version"]
        sent = CounterMetricFamily(
            "moorage_router_shadow_requests", "Copies of requests, by what became of them.", labels=[*names, "outcome"]
        )
        shed = CounterMetricFamily("moorage_router_shadow_shed", "Copies not made.", labels=[*names, "reason"])
        agreed = CounterMetricFamily(
            "moorage_router_shadow_compared", "Copies whose caller was answered too.", labels=[*names, "agrees"]
        )
        took = CounterMetricFamily(
            "moorage_router_shadow_seconds", "In the models, of those compared.", labels=[*names, "of"]
        )
        for one in self._held.values():
            for family, counts in ((sent, one.by_outcome), (shed, one.shed), (agreed, one.agreed)):
                for name, count in counts.items():
                    family.add_metric([*one.labels, name], count)
            took.add_metric([*one.labels, "shadow"], one.own_us / 1e6)
            took.add_metric([*one.labels, "served"], one.served_us / 1e6)
        yield from (sent, shed, agreed, took)
