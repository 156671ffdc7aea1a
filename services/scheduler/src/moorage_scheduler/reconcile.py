"""Desired state against what runs: decide purely what changes, then start, queue, retire and report."""

import asyncio
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog
from pydantic import ValidationError

from moorage_common.contracts.desired import Desired, DesiredVersion, LoadSpec
from moorage_common.contracts.versioned import Versioned
from moorage_scheduler.autoscale import Bounds, Scale, rescale
from moorage_scheduler.cluster import Cluster, ClusterUnreachable, Placed, RayNode
from moorage_scheduler.hosts import Fleet, Host, Start, VersionKey
from moorage_scheduler.loads import LoadBoard
from moorage_scheduler.metrics import SchedulerMetrics
from moorage_scheduler.placement.plan import Place, place
from moorage_scheduler.placement.state import DEVICE_MILLI, Ask, ClusterState, account
from moorage_scheduler.reports import Reports, status
from moorage_scheduler.validations import Validations

log = structlog.get_logger()

STEP_S = 1.0
NODES_S = 2.0
UNREACHABLE_LIMIT = 3

Configure = Callable[[str, str, list[LoadSpec]], str]
"""Host id, tenant and versions to load -> the JSON of a host's configuration."""


@dataclass(frozen=True)
class Running:
    """A host as the comparison sees it: leaving ones count no more, outdated ones until others are ready."""

    host_id: str
    ready: bool
    leaving: bool
    current: bool
    started_at: float


@dataclass(frozen=True)
class Change:
    """What one version needs: so many more hosts, and these retired."""

    start: int
    retire: tuple[str, ...]


def compare(wanted: int, running: Sequence[Running]) -> Change:
    """The way from `running` to `wanted` current hosts.

    Outdated hosts (of other resources) go once as many current ones are ready. Of too many, those that are not ready
    go first, then the youngest.
    """
    staying = [host for host in running if not host.leaving]
    current = sorted((host for host in staying if host.current), key=lambda host: (not host.ready, host.started_at))
    surplus = [host.host_id for host in current[wanted:]]
    ready = sum(host.ready for host in current[:wanted])
    outdated = sorted(
        (host for host in staying if not host.current), key=lambda host: (not host.ready, host.started_at)
    )
    replaced = [host.host_id for host in outdated[max(0, wanted - ready) :]]
    return Change(max(0, wanted - len(current)), (*surplus, *replaced))


@dataclass
class Reconciler:
    """Drives one cluster to what is desired. `changed` wakes it; otherwise it looks every second."""

    cluster: Cluster
    fleet: Fleet
    validations: Validations
    reports: Reports
    loads: LoadBoard
    metrics: SchedulerMetrics
    configure: Configure
    changed: asyncio.Event
    nodes: list[RayNode] = field(default_factory=list)
    desired: dict[str, Desired] = field(default_factory=dict)
    queued: dict[VersionKey, list[str]] = field(default_factory=dict)
    _scales: dict[VersionKey, Scale] = field(default_factory=dict)
    _failed_specs: dict[VersionKey, DesiredVersion] = field(default_factory=dict)

    def desire(self, key: str, entry: Versioned) -> None:
        """Take an entry of the `desired` bucket."""
        if entry.value is None:
            self.desired.pop(key, None)
        else:
            try:
                self.desired[key] = Desired.model_validate(entry.value)
            except ValidationError as error:
                log.error("unreadable desired state ignored", key=key, errors=error.error_count())
        self.changed.set()

    async def adopt(self) -> None:
        """Take over what runs already. Raises ClusterUnreachable."""
        await self.refresh_nodes()
        for placed in await self.cluster.running():
            if placed.purpose == "validation":
                self.validations.adopt(placed)
            else:
                self.fleet.adopt(placed)

    async def refresh_nodes(self) -> None:
        """Read the live nodes, make their groups, give up hosts of lost ones. Raises ClusterUnreachable."""
        nodes = await self.cluster.nodes()
        for gone in {node.ray_id for node in self.nodes} - {node.ray_id for node in nodes}:
            await self.cluster.forget_node(gone)
        for node in nodes:
            await self.cluster.ensure_groups(node)
        if nodes != self.nodes:
            log.info("nodes", nodes=[f"{node.size.name}: {node.size.devices} GPU" for node in nodes])
            self.nodes = nodes
            self.changed.set()
        self.fleet.drop_nodes(node.size.name for node in nodes)

    async def watch_nodes(self) -> None:
        """Keep the nodes current until cancelled. Raises ClusterUnreachable when Ray stays away."""
        failures = 0
        while True:
            await asyncio.sleep(NODES_S)
            try:
                await self.refresh_nodes()
                await self.validations.sweep()
                failures = 0
            except ClusterUnreachable as error:
                failures += 1
                log.warning("Ray does not answer", error=str(error), times=failures)
                if failures == UNREACHABLE_LIMIT:
                    raise

    async def run(self) -> None:
        """Reconcile on every change and every second, until cancelled."""
        while True:
            self.step(time.time())
            try:
                await asyncio.wait_for(self.changed.wait(), STEP_S)
            except TimeoutError:
                continue
            self.changed.clear()

    def state(self) -> ClusterState:
        """The planner's account now."""
        return account((node.size for node in self.nodes), [host.held() for host in self.fleet.hosts.values()])

    def step(self, now: float) -> None:
        """One comparison of everything."""
        self.loads.sample(now)
        by_version: dict[VersionKey, list[Host]] = defaultdict(list)
        for host in self.fleet.hosts.values():
            by_version[host.key].append(host)
        wanted = {
            (entry.tenant, entry.model, version.load.version): version
            for entry in self.desired.values()
            for version in entry.versions
        }
        self.queued = {}
        self._forget_what_is_not(wanted)
        for key in sorted(by_version.keys() - wanted.keys()):
            self._retire(host.placed.host_id for host in by_version[key])
        for key, version in sorted(wanted.items(), key=lambda item: item[0]):
            self._bring(key, version, by_version[key], now)
        self.validations.want(self.desired.values())
        self._report(by_version)

    def _forget_what_is_not(self, wanted: Mapping[VersionKey, DesiredVersion]) -> None:
        """A failed version is tried again when something else is desired of it."""
        for key in list(self.fleet.failures):
            failed = self._failed_specs.setdefault(key, wanted[key]) if key in wanted else None
            if wanted.get(key) != failed or failed is None:
                self.fleet.failures.pop(key)
                self._failed_specs.pop(key, None)
        for key in self._scales.keys() - wanted.keys():
            del self._scales[key]

    def _bring(self, key: VersionKey, version: DesiredVersion, hosts: list[Host], now: float) -> None:
        """Bring one version to the number of hosts it should have."""
        if key in self.fleet.failures:
            self._retire(host.placed.host_id for host in hosts)
            return
        asked = version.resources.model_dump(mode="json")
        change = compare(self._wanted(key, version, hosts, now), [_running(host, asked) for host in hosts])
        reasons = [reason for _ in range(change.start) if (reason := self._start(key, version, now)) is not None]
        if reasons:
            self.queued[key] = reasons
        outdated = [h.placed.host_id for h in hosts if h.placed.asked != asked and h.state != "stopping"]
        self._retire(change.retire or (outdated[:1] if reasons else ()))

    def _wanted(self, key: VersionKey, version: DesiredVersion, hosts: list[Host], now: float) -> int:
        bounds = Bounds(version.min_replicas, version.max_replicas, version.target_in_flight)
        present = sum(host.state != "stopping" for host in hosts)
        scale = self._scales.get(key) or Scale(max(bounds.min_replicas, min(present, bounds.max_replicas)))
        if self.loads.heard(now) or scale.wanted < bounds.min_replicas or scale.wanted > bounds.max_replicas:
            scale = rescale(bounds, scale, self.loads.samples(key), self.loads.woken_at(key), now)
        self._scales[key] = scale
        return scale.wanted

    def _start(self, key: VersionKey, version: DesiredVersion, now: float) -> str | None:
        """Place and start one host; the reason when it has to wait."""
        tenant, model, number = key
        ask = Ask(tenant, model, number, version.resources)
        decision = place(self.state(), ask)
        if not isinstance(decision, Place):
            return decision.reason
        host_id = f"{tenant}.{model}.{number}.{secrets.token_hex(3)}"
        placed = Placed(
            host_id=host_id,
            tenant=tenant,
            model=model,
            version=number,
            purpose="replica",
            node=decision.node,
            devices=list(decision.devices),
            asked=version.resources.model_dump(mode="json"),
            started_at=now,
        )
        ray_id = next(node.ray_id for node in self.nodes if node.size.name == decision.node)
        config = self.configure(host_id, tenant, [version.load])
        log.info("placing", host_id=host_id, node=decision.node, devices=decision.devices)
        self.fleet.start(Start(placed, ray_id, ask.device_milli() / DEVICE_MILLI, config))
        return None

    def _retire(self, host_ids: Iterable[str]) -> None:
        for host_id in host_ids:
            self.fleet.retire(host_id)

    def _report(self, by_version: Mapping[VersionKey, list[Host]]) -> None:
        deployments = {(entry.tenant, entry.model) for entry in self.desired.values()}
        deployments |= {(host.placed.tenant, host.placed.model) for host in self.fleet.hosts.values()}
        for deployment in deployments:
            self.reports.status_changed(
                status(
                    self.reports.cluster,
                    deployment,
                    hosts=[h for h in self.fleet.hosts.values() if h.key[:2] == deployment],
                    queued={key: reasons for key, reasons in self.queued.items() if key[:2] == deployment},
                    failures={key: held for key, held in self.fleet.failures.items() if key[:2] == deployment},
                    validations=self.validations.of(deployment),
                )
            )
        self.reports.keep_statuses_of(deployments)
        self._measure()

    def _measure(self) -> None:
        self.metrics.queued.set(sum(map(len, self.queued.values())))
        self.metrics.gpu_milli_free.clear()
        for node in self.state().nodes:
            for device in node.devices:
                self.metrics.gpu_milli_free.labels(node.name, str(device.index)).set(device.free_milli)
        self.metrics.replicas.clear()
        for host in self.fleet.hosts.values():
            tenant, model, version = host.key
            self.metrics.series.child(self.metrics.replicas, tenant, model, str(version), host.state).inc()


def _running(host: Host, asked: Mapping[str, object]) -> Running:
    return Running(
        host_id=host.placed.host_id,
        ready=host.state == "ready" and host.reachable,
        leaving=host.state in ("stopping", "failed"),
        current=host.placed.asked == asked,
        started_at=host.placed.started_at,
    )
