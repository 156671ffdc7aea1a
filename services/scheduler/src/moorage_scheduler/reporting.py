"""Every deployment's status and the gauges, written after each step."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from moorage_common.contracts.desired import Desired
from moorage_scheduler.hosts import Fleet, Host, VersionKey
from moorage_scheduler.metrics import SchedulerMetrics
from moorage_scheduler.placement.state import ClusterState
from moorage_scheduler.pools import Pools
from moorage_scheduler.reports import Reports, status
from moorage_scheduler.validations import Validations

T = TypeVar("T")


@dataclass(frozen=True)
class Reporting:
    """Tells the registry and Prometheus how things stand."""

    fleet: Fleet
    validations: Validations
    reports: Reports
    metrics: SchedulerMetrics
    pools: Pools

    def publish(self, desired: Iterable[Desired], queued: Mapping[VersionKey, list[str]], state: ClusterState) -> None:
        """Write what changed."""
        deployments = {(entry.tenant, entry.model) for entry in desired}
        hosts: dict[tuple[str, str], list[Host]] = defaultdict(list)
        for host in self.fleet.hosts.values():
            if host.placed.purpose == "replica":
                hosts[host.key[:2]].append(host)
        deployments |= hosts.keys()
        pooled = self.pools.statuses()
        waiting, failed = _by_deployment(queued), _by_deployment(self.fleet.failures)
        for deployment in deployments:
            self.reports.status_changed(
                status(
                    self.reports.cluster,
                    deployment,
                    hosts=hosts[deployment],
                    pooled=pooled.get(deployment, ()),
                    queued=waiting[deployment],
                    failures=failed[deployment],
                    validations=self.validations.of(deployment),
                )
            )
        self.reports.keep_statuses_of(deployments)
        self._measure(queued, state)

    def _measure(self, queued: Mapping[VersionKey, list[str]], state: ClusterState) -> None:
        self.metrics.queued.set(sum(map(len, queued.values())))
        self.metrics.gpu_milli_free.clear()
        for node in state.nodes:
            for device in node.devices:
                self.metrics.gpu_milli_free.labels(node.name, str(device.index)).set(device.free_milli)
        self.metrics.replicas.clear()
        for host in self.fleet.hosts.values():
            tenant, model, version = host.key
            self.metrics.series.child(self.metrics.replicas, tenant, model, str(version), host.state).inc()


def _by_deployment(by_version: Mapping[VersionKey, T]) -> dict[tuple[str, str], dict[VersionKey, T]]:
    found: dict[tuple[str, str], dict[VersionKey, T]] = defaultdict(dict)
    for key, value in by_version.items():
        found[key[:2]][key] = value
    return found
