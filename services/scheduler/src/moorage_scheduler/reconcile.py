"""Desired state against what runs, told once a second: targets, then starts and retirements, then the report."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import structlog
from pydantic import ValidationError

from moorage_common.contracts.cluster import ClusterIntent
from moorage_common.contracts.desired import Desired, DesiredVersion
from moorage_common.contracts.tensors import DATA_FORMATS
from moorage_common.contracts.versioned import Versioned
from moorage_scheduler.admission import Admission, Pending
from moorage_scheduler.changes import Running, compare, makes_room
from moorage_scheduler.cluster import ClusterUnreachable, NotLeading
from moorage_scheduler.draining import Draining
from moorage_scheduler.gathering import Gathering
from moorage_scheduler.grouping import is_pooled
from moorage_scheduler.hosts import Fleet, Host, VersionKey
from moorage_scheduler.journal import Journal
from moorage_scheduler.moves import Mover
from moorage_scheduler.nodes import Nodes
from moorage_scheduler.placement.state import ClusterState
from moorage_scheduler.pools import Pools
from moorage_scheduler.reporting import Reporting
from moorage_scheduler.targets import Targets
from moorage_scheduler.validations import Validations
from moorage_scheduler.warm import Warm

log = structlog.get_logger()

STEP_S = 1.0
REST_S = 0.2
"""The most that a step is followed by a rest as long as itself."""
NODES_S = 1.0
UNREACHABLE_LIMIT = 3
VALIDATION_IDLE_S = 5.0
"""How long a validation host stays warm while replicas wait for a place."""
_KEPT = "what runs with other resources stays, because min_replicas is {}: lower it to let that go first"


@dataclass
class Reconciler:
    """Drives one cluster to what is desired. `changed` wakes it; otherwise it looks every second."""

    fleet: Fleet
    nodes: Nodes
    targets: Targets
    mover: Mover
    admission: Admission
    draining: Draining
    gathering: Gathering
    pools: Pools
    warm: Warm
    validations: Validations
    reporting: Reporting
    changed: asyncio.Event
    desired: dict[str, Desired] = field(default_factory=dict)
    queued: dict[VersionKey, list[str]] = field(default_factory=dict)
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

    def intend(self, entry: Versioned) -> None:
        """Take what operators want of the cluster."""
        try:
            intent = ClusterIntent.model_validate(entry.value or {"cluster": ""})
        except ValidationError as error:
            log.error("unreadable intent ignored", errors=error.error_count())
        else:
            self.nodes.drain(intent.drained)

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
        hosts = [*(host.placed for host in self.fleet.hosts.values()), *self.validations.hosts()]
        lost = self.nodes.lost((placed.node, placed.node_id) for placed in hosts)
        self.fleet.drop_nodes(lost)
        self.validations.drop_nodes(lost)

    async def watch_nodes(self) -> None:
        """Keep the nodes current until cancelled. Raises ClusterUnreachable when Ray stays away."""
        failures = 0
        while True:
            await asyncio.sleep(NODES_S)
            try:
                await self.refresh_nodes()
                self.validations.sweep()
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
            began = time.monotonic()
            if self.fleet.cluster.may_act():  # otherwise what runs is followed, and nothing changed
                self.step(time.time())
            await asyncio.sleep(min(REST_S, time.monotonic() - began))  # thousands of versions at once are one change
            try:
                await asyncio.wait_for(self.changed.wait(), STEP_S)
            except TimeoutError:
                continue
            self.changed.clear()

    @property
    def journal(self) -> Journal:
        """Why what was decided was."""
        return self.admission.journal

    def state(self) -> ClusterState:
        """The planner's account now."""
        return self.fleet.account

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
        wanted = self.mover.wanted = self.wanted()
        self._forget_what_is_not(wanted)
        for key in sorted(by_version.keys() - wanted.keys()):
            self._retire(host.placed.host_id for host in by_version[key])
        pooled = {key: version for key, version in wanted.items() if self._in_pool(key, version, by_version[key])}
        # What callers wait for comes first; otherwise the order is fixed.
        first = sorted(wanted.items(), key=lambda one: not self.targets.loads.is_waited_for(one[0], now))
        dedicated = [(key, version) for key, version in first if not is_pooled(version)]
        pending = [one for key, version in dedicated for one in self._bring(key, version, by_version[key], now)]
        self.mover.step(now)
        self.draining.step(now)
        self.queued = self.admission.admit(pending, now)
        self._make_way(by_version)
        self.queued |= self.pools.step(pooled, now)
        for key in pooled:
            if is_pooled(wanted[key]) and by_version[key] and self.pools.ready(key):
                self._retire(host.placed.host_id for host in by_version[key])
        if self.queued:
            self.validations.sweep(idle_s=VALIDATION_IDLE_S)
        self.gathering.step(now, waiting=bool(self.queued))
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

    def _keep_warm(self) -> None:
        free = {node.size.name: node.free_mem_mib for node in self.state().nodes}
        starting = ("starting", "loading")
        busy = {host.placed.node for host in self.fleet.hosts.values() if host.state in starting}
        formats = sorted({v.load.format for entry in self.desired.values() for v in entry.versions} & DATA_FORMATS)
        self.warm.step(self.nodes.open, free, busy, formats)

    def _forget_what_is_not(self, wanted: Mapping[VersionKey, DesiredVersion]) -> None:
        """A failed version is tried again when something else is desired of it."""
        for key in list(self.fleet.failures):
            failed = self._failed_specs.setdefault(key, wanted[key]) if key in wanted else None
            if wanted.get(key) != failed or failed is None:
                self.fleet.failures.pop(key)
                self._failed_specs.pop(key, None)
        self.targets.keep(wanted.keys())

    def _bring(self, key: VersionKey, version: DesiredVersion, hosts: list[Host], now: float) -> list[Pending]:
        """Retire what one version has too much; the replicas that it lacks."""
        if key in self.fleet.failures:
            self._retire(host.placed.host_id for host in hosts)
            return []
        self.admission.placing.keep_to(version, hosts)
        running = self._running(version, hosts)
        present = sum(host.state != "stopping" for host in hosts)
        change = compare(self.targets.of(key, version, present, now), running)
        self._retire(change.retire)
        return [Pending(key, version)] * change.start

    def _make_way(self, by_version: Mapping[VersionKey, list[Host]]) -> None:
        """Where successors of other resources fit nowhere, predecessors go first, down to the minimum that is ready."""
        for key, reasons in self.queued.items():
            version = self.mover.wanted[key]
            running = self._running(version, by_version.get(key, []))
            if not any(not one.current and not one.leaving for one in running):
                continue
            first = makes_room(version.min_replicas, running)
            if first is not None:
                self._retire([first])
            elif not any(one.leaving for one in running):
                reasons[:] = [f"{reason}; {_KEPT.format(version.min_replicas)}" for reason in reasons]

    def _running(self, version: DesiredVersion, hosts: Iterable[Host]) -> list[Running]:
        asked = version.resources.model_dump(mode="json")
        return [
            Running(
                host_id=host.placed.host_id,
                ready=host.serving,
                leaving=host.leaving,
                current=host.placed.asked == asked,
                started_at=host.placed.started_at,
                arriving=self.fleet.arriving(host),
            )
            for host in hosts
        ]

    def _retire(self, host_ids: Iterable[str]) -> None:
        for host_id in host_ids:
            self.fleet.retire(host_id)
