"""Validation runs: one warm CPU host a tenant loads the version and answers the pusher's examples again."""

import asyncio
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

import structlog

from moorage_common.contracts.desired import Desired, Resources, ValidationResult, ValidationRun
from moorage_scheduler.asking import held_of
from moorage_scheduler.cluster import Cluster, ClusterUnreachable, HostGone, HostRefused, Placed, RayNode
from moorage_scheduler.crashes import first_line
from moorage_scheduler.metrics import SchedulerMetrics
from moorage_scheduler.placement.decisions import Place
from moorage_scheduler.placement.plan import place
from moorage_scheduler.placement.state import Ask, ClusterState

log = structlog.get_logger()

WARM_S = 600.0
WANTED_IDLE_S = 5.0
"""A host that was idle for so long goes where another tenant's runs wait for room."""
RUN_TIMEOUT_S = 120.0
START_TIMEOUT_S = 60.0
RETRY_S = 1.0
TRIES = 30
"""How often a run is tried while its artifacts or the cluster cannot be reached."""
DEATHS = 2
"""So many dead or hung processes speak against the version."""
PURPOSE_MODEL = "_validation"
"""In the place of a model's name, which cannot begin with an underscore."""
RESOURCES = Resources(cpu_milli=100)


@dataclass
class ValidationHost:
    """A tenant's validation host. Runs of one tenant take turns."""

    placed: Placed
    used_at: float
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass
class Validations:
    """Runs wanted, running and answered. `on_result` is called with the deployment that has a new result."""

    cluster: Cluster
    metrics: SchedulerMetrics
    configure: Callable[[str, str], str]
    """Host id and tenant -> the JSON of an empty host's configuration."""
    nodes: Callable[[], list[RayNode]]
    """Those that may take a host."""
    account: ClusterState
    on_result: Callable[[], None]
    results: dict[tuple[str, str], dict[str, ValidationResult]] = field(default_factory=lambda: defaultdict(dict))
    _hosts: dict[str, ValidationHost] = field(default_factory=dict)
    _starting: dict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))
    _tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _removals: set[asyncio.Task[None]] = field(default_factory=set)

    def adopt(self, placed: Placed) -> None:
        """Take over a validation host that runs already."""
        if placed.host_id in self.account.held:
            return
        self.account.add(placed.host_id, held_of(placed))
        host = ValidationHost(placed, time.monotonic())
        if self._hosts.setdefault(placed.tenant, host) is not host:
            self._remove(host)  # one is enough, and another would be forgotten

    def want(self, desired: Iterable[Desired]) -> None:
        """Start the runs that are new; forget results and runs that are no longer asked for."""
        wanted: dict[str, tuple[tuple[str, str], ValidationRun]] = {}
        for entry in desired:
            wanted |= {run.run_id: ((entry.tenant, entry.model), run) for run in entry.validations}
        for deployment, results in list(self.results.items()):
            for run_id in results.keys() - wanted.keys():
                del results[run_id]
            if not results:
                del self.results[deployment]
        for run_id in self._tasks.keys() - wanted.keys():
            self._tasks.pop(run_id).cancel()
        for run_id, (deployment, run) in wanted.items():
            if run_id not in self._tasks and run_id not in self.results.get(deployment, {}):
                task = asyncio.create_task(self._answer(deployment, run), name=f"validation-{run_id}")
                self._tasks[run_id] = task
                task.add_done_callback(_told)

    def of(self, deployment: tuple[str, str]) -> list[ValidationResult]:
        return list(self.results.get(deployment, {}).values())

    def hosts(self) -> list[Placed]:
        return [host.placed for host in self._hosts.values()]

    def sweep(self, *, idle_s: float = WARM_S) -> None:
        """Remove hosts that were idle for so long, and those on nodes that take nothing more."""
        open_nodes = {node.ray_id for node in self.nodes()}
        for host in list(self._hosts.values()):
            idle = time.monotonic() - host.used_at > idle_s or host.placed.node_id not in open_nodes
            if idle and not host.turn.locked():
                self._discard(host)

    def drop_nodes(self, lost: Collection[str]) -> None:
        """Give up hosts on the nodes with these ids of Ray; what they ran is run again elsewhere."""
        for host in list(self._hosts.values()):
            if host.placed.node_id in lost:
                self._discard(host)

    async def close(self) -> None:
        """Stop waiting for runs; a new scheduler runs them again."""
        for tasks in (list(self._tasks.values()), self._removals):  # a run that ends may begin a removal
            ending = list(tasks)
            for task in ending:
                task.cancel()
            await asyncio.gather(*ending, return_exceptions=True)

    async def _answer(self, deployment: tuple[str, str], run: ValidationRun) -> None:
        began = time.monotonic()
        result = await self._run(deployment[0], run)
        took = round(time.monotonic() - began, 2)
        log.info("validated", model=deployment[1], version=run.load.version, state=result.state, seconds=took)
        self.metrics.series.child(self.metrics.validations, deployment[0], result.state).inc()
        self.results[deployment][run.run_id] = result
        self._tasks.pop(run.run_id, None)
        self.on_result()

    async def _run(self, tenant: str, run: ValidationRun) -> ValidationResult:
        reason, deaths = "its turn never came: the process kept dying under other versions", 0
        for _attempt in range(TRIES):
            while not self.cluster.may_act():  # noqa: ASYNC110 - the lease is renewed by the clock, not by an event
                await asyncio.sleep(RETRY_S)
            try:
                host = await self._host_with_room(tenant)
            except (ClusterUnreachable, HostGone, HostRefused) as error:
                reason = f"no host to validate on: {first_line(error)}"
                await asyncio.sleep(RETRY_S)
                continue
            try:
                async with host.turn:
                    if self._hosts.get(tenant) is not host:
                        continue  # it died under another run, which says nothing about this one
                    host.used_at = time.monotonic()
                    answer = await self.cluster.call(
                        host.placed.host_id, "validate", run.model_dump_json(), timeout_s=RUN_TIMEOUT_S, retries=0
                    )
                    host.used_at = time.monotonic()
                return ValidationResult.model_validate(answer)
            except (HostGone, ClusterUnreachable) as error:
                reason = f"the process that loaded the version died or hung: {first_line(error)}"
                deaths += 1
                self._discard(host)
                if deaths == DEATHS:
                    break
            except HostRefused as error:
                reason = str(error)[:500]
            await asyncio.sleep(RETRY_S)
        return ValidationResult(run_id=run.run_id, version=run.load.version, state="rejected", reason=reason)

    async def _host_with_room(self, tenant: str) -> ValidationHost:
        """The tenant's host, started when there is none; while no node has room for it, the run waits, which says
        nothing about the version. Raises ClusterUnreachable, HostGone."""
        async with self._starting[tenant]:  # one of a tenant's runs looks for room, for all of them
            while (host := await self._host(tenant)) is None:
                self.sweep(idle_s=WANTED_IDLE_S)
                await asyncio.sleep(RETRY_S)
            return host

    async def _host(self, tenant: str) -> ValidationHost | None:
        """As `_host_with_room`; None without room."""
        held = self._hosts.get(tenant)
        if held is not None:
            return held
        if not (nodes := {node.size.name: node for node in self.nodes()}):
            message = "the cluster has no node yet"
            raise ClusterUnreachable(message)
        decision = place(self.account, Ask(tenant, PURPOSE_MODEL, 0, RESOURCES))
        if not isinstance(decision, Place) or decision.node not in nodes:
            return None
        node = nodes[decision.node]
        placed = Placed(
            host_id=f"{tenant}.{PURPOSE_MODEL}.0.{secrets.token_hex(3)}",
            tenant=tenant,
            model=PURPOSE_MODEL,
            version=0,
            purpose="validation",
            node=node.size.name,
            node_id=node.ray_id,
            devices=[],
            asked=RESOURCES.model_dump(mode="json"),
            started_at=time.time(),
        )
        host = ValidationHost(placed, time.monotonic())
        self.account.add(placed.host_id, held_of(placed))
        try:
            await self.cluster.start(placed, node.ray_id, 0.0, self.configure(placed.host_id, tenant))
            await self.cluster.call(placed.host_id, "identity", timeout_s=START_TIMEOUT_S)
            self._hosts[tenant] = host
        finally:  # also where the run is not wanted any more, which cancels it
            if self._hosts.get(tenant) is not host:
                self._remove(host)
        return host

    def _discard(self, host: ValidationHost) -> None:
        if self._hosts.get(host.placed.tenant) is host:
            del self._hosts[host.placed.tenant]
            self._remove(host)

    def _remove(self, host: ValidationHost) -> None:
        """Its place counts as taken until Ray has confirmed."""
        removal = asyncio.create_task(self._removed(host.placed.host_id), name=f"remove-{host.placed.host_id}")
        self._removals.add(removal)
        removal.add_done_callback(self._removals.discard)

    async def _removed(self, host_id: str) -> None:
        while True:
            try:
                await self.cluster.remove(host_id)
                break
            except ClusterUnreachable as error:
                log.warning("validation host not removed yet", host_id=host_id, error=str(error))
                await asyncio.sleep(RETRY_S)
        self.account.remove(host_id)


def _told(task: asyncio.Task[None]) -> None:
    """A run that ends without a result, for a fault of ours, is said to."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("not validated, for a fault of ours", run=task.get_name(), exc_info=error)
