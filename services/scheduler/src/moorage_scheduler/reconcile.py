"""Desired state against what runs, told once a second: targets, then starts and retirements, then the report."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import structlog
from pydantic import ValidationError

from moorage_common.contracts.desired import Desired, DesiredVersion, Resources
from moorage_common.contracts.tensors import DATA_FORMATS
from moorage_common.contracts.versioned import Versioned
from moorage_scheduler.changes import Running, compare, makes_room
from moorage_scheduler.cluster import ClusterUnreachable, NotLeading
from moorage_scheduler.grouping import is_pooled
from moorage_scheduler.hosts import Fleet, Host, VersionKey
from moorage_scheduler.journal import Journal
from moorage_scheduler.nodes import Nodes
from moorage_scheduler.placement.decisions import Place
from moorage_scheduler.placement.plan import place
from moorage_scheduler.placement.state import Ask, ClusterState
from moorage_scheduler.placing import Placing
from moorage_scheduler.pools import POOL_MODEL, Pools
from moorage_scheduler.reporting import Reporting
from moorage_scheduler.serve_apps import without_room
from moorage_scheduler.serve_room import at_host
from moorage_scheduler.targets import Targets
from moorage_scheduler.validations import Validations
from moorage_scheduler.warm import Warm

log = structlog.get_logger()

STEP_S = 1.0
NODES_S = 2.0
UNREACHABLE_LIMIT = 3


@dataclass
class Reconciler:
    """Drives one cluster to what is desired. `changed` wakes it; otherwise it looks every second."""

    fleet: Fleet
    nodes: Nodes
    targets: Targets
    placing: Placing
    pools: Pools
    warm: Warm
    validations: Validations
    reporting: Reporting
    changed: asyncio.Event
    desired: dict[str, Desired] = field(default_factory=dict)
    queued: dict[VersionKey, list[str]] = field(default_factory=dict)
    journal: Journal = field(default_factory=Journal)
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
        for placed in await self.fleet.cluster.running():
            if placed.purpose == "validation":
                self.validations.adopt(placed)
            elif placed.purpose == "warm":
                self.warm.adopt(placed)
            else:
                self.fleet.adopt(placed)

    async def refresh_nodes(self) -> None:
        """Read the live nodes and give up hosts of lost ones. Raises ClusterUnreachable."""
        await self.nodes.refresh()
        used = {(host.placed.node, host.placed.node_id) for host in self.fleet.hosts.values()}
        self.fleet.drop_nodes(self.nodes.lost(used))

    async def watch_nodes(self) -> None:
        """Keep the nodes current until cancelled. Raises ClusterUnreachable when Ray stays away."""
        failures = 0
        while True:
            await asyncio.sleep(NODES_S)
            try:
                await self.refresh_nodes()
                await self.validations.sweep()
                failures = 0
            except NotLeading as error:
                log.debug("nodes not followed", error=str(error))
            except ClusterUnreachable as error:
                failures += 1
                log.warning("Ray does not answer", error=str(error), times=failures)
                if failures == UNREACHABLE_LIMIT:
                    raise

    async def run(self) -> None:
        """Reconcile on every change and every second, until cancelled."""
        while True:
            if self.fleet.cluster.may_act():  # otherwise what runs is followed, and nothing changed
                self.step(time.time())
            try:
                await asyncio.wait_for(self.changed.wait(), STEP_S)
            except TimeoutError:
                continue
            self.changed.clear()

    def state(self) -> ClusterState:
        """The planner's account now."""
        held = {host_id: host.held() for host_id, host in self.fleet.hosts.items()}
        return ClusterState.of((node.size for node in self.nodes.live), held)

    def wanted(self) -> dict[VersionKey, DesiredVersion]:
        """Every version that should run, in a fixed order."""
        found = {
            (entry.tenant, entry.model, version.load.version): version
            for entry in self.desired.values()
            for version in entry.versions
        }
        return dict(sorted(found.items()))

    def step(self, now: float) -> None:
        """One comparison of everything."""
        self.targets.loads.sample(now)
        by_version = self._by_version()
        wanted = self.wanted()
        self.queued = {}
        self._forget_what_is_not(wanted)
        for key in sorted(by_version.keys() - wanted.keys()):
            self._retire(host.placed.host_id for host in by_version[key])
        pooled = {key: version for key, version in wanted.items() if self._in_pool(key, version, by_version[key])}
        # What callers wait for comes first; otherwise the order is fixed.
        for key, version in sorted(wanted.items(), key=lambda one: not self.targets.loads.is_waited_for(one[0], now)):
            if not is_pooled(version):
                self._bring(key, version, by_version[key], now)
        self.queued |= self.pools.step(pooled, now)
        for key in pooled:
            if is_pooled(wanted[key]) and by_version[key] and self.pools.ready(key):
                self._retire(host.placed.host_id for host in by_version[key])
        self._keep_warm()
        self.validations.want(self.desired.values())
        self.reporting.publish(self.desired.values(), self.queued, self.state())

    def _by_version(self) -> defaultdict[VersionKey, list[Host]]:
        found: defaultdict[VersionKey, list[Host]] = defaultdict(list)
        for host in self.fleet.hosts.values():
            if host.placed.purpose == "replica":
                found[host.key].append(host)
        return found

    def _in_pool(self, key: VersionKey, version: DesiredVersion, hosts: Iterable[Host]) -> bool:
        """Whether a pool holds the version: it is to, or it did and nothing else answers for it yet."""
        if is_pooled(version):
            return True
        return self.pools.holds(key) and not any(host.state == "ready" and host.reachable for host in hosts)

    def start_pool(self, tenant: str, number: int, asked: Resources) -> str | None:
        """Place and start a host of a pool; the reason when it has to wait."""
        decision = place(self.state(), Ask(tenant, POOL_MODEL, number, asked))
        if not isinstance(decision, Place):
            return decision.reason
        self.placing.start_pool(tenant, number, asked, decision)
        return None

    def _keep_warm(self) -> None:
        free = {node.size.name: node.free_mem_mib for node in self.state().nodes}
        starting = ("starting", "loading")
        busy = {host.placed.node for host in self.fleet.hosts.values() if host.state in starting}
        formats = sorted({v.load.format for entry in self.desired.values() for v in entry.versions} & DATA_FORMATS)
        self.warm.step(self.nodes.live, free, busy, formats)

    def _forget_what_is_not(self, wanted: Mapping[VersionKey, DesiredVersion]) -> None:
        """A failed version is tried again when something else is desired of it."""
        for key in list(self.fleet.failures):
            failed = self._failed_specs.setdefault(key, wanted[key]) if key in wanted else None
            if wanted.get(key) != failed or failed is None:
                self.fleet.failures.pop(key)
                self._failed_specs.pop(key, None)
        self.targets.keep(wanted.keys())

    def _bring(self, key: VersionKey, version: DesiredVersion, hosts: list[Host], now: float) -> None:
        """Bring one version to the number of hosts it should have."""
        if key in self.fleet.failures:
            self._retire(host.placed.host_id for host in hosts)
            return
        asked = version.resources.model_dump(mode="json")
        running = [_running(host, asked) for host in hosts]
        present = sum(host.state != "stopping" for host in hosts)
        change = compare(self.targets.of(key, version, present, now), running)
        reasons = [reason for _ in range(change.start) if (reason := self._start(key, version)) is not None]
        self._retire(change.retire)
        if not reasons:
            return
        self.queued[key] = reasons
        if not change.retire and (first := makes_room(version.min_replicas, running)) is not None:
            self._retire([first])

    def _start(self, key: VersionKey, version: DesiredVersion) -> str | None:
        """Place and start one host; the reason when it has to wait."""
        reason = without_room(version, (host.placed for host in self.fleet.hosts.values()), self.nodes.live)
        if reason is not None:
            return reason
        state, ask = self.state(), Ask(*key, at_host(version.load.format, version.resources))
        decision = place(state, ask)
        self.journal.decided(state, ask, decision)
        if not isinstance(decision, Place):
            return decision.reason
        self.journal.placed(self.placing.start(key, version, decision), state, ask, decision)
        return None

    def _retire(self, host_ids: Iterable[str]) -> None:
        for host_id in host_ids:
            self.fleet.retire(host_id)


def _running(host: Host, asked: Mapping[str, object]) -> Running:
    return Running(
        host_id=host.placed.host_id,
        ready=host.state == "ready" and host.reachable,
        leaving=host.state in ("stopping", "failed"),
        current=host.placed.asked == asked,
        started_at=host.placed.started_at,
    )
