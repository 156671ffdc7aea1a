"""Warm hosts: processes of no tenant that have a host's libraries in memory, and become a replica within milliseconds.

They are charged to nobody and leave first where memory is short. One that was taken never comes back: when Ray starts
its process anew, the scheduler assigns that to the same tenant again.
"""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from moorage_common.contracts.desired import Resources
from moorage_scheduler.cluster import Cluster, ClusterUnreachable, HostGone, HostRefused, Placed, RayNode
from moorage_scheduler.metrics import SchedulerMetrics
from moorage_scheduler.sizing import WarmSize, fitting, wanted_warm

log = structlog.get_logger()

WARM_MODEL = "_warm"
POLL_S = 0.2
START_TIMEOUT_S = 90.0
FIRST_STARTUP_S = 10.0
"""Of a warm host, before one was measured."""
STARTING_A_NODE = 2
"""A start takes seconds of a processor, which the replicas of the node want, too."""


@dataclass
class WarmHost:
    """A warm host, which can be taken once it is `ready`."""

    placed: Placed
    ready: bool = False


@dataclass
class Warm:
    """The warm hosts of the cluster."""

    cluster: Cluster
    metrics: SchedulerMetrics
    configure: Callable[[str, Collection[str]], str]
    """Host id and formats -> the JSON of a warm host's configuration."""
    size: WarmSize
    clock: Callable[[], float] = time.monotonic
    hosts: dict[str, WarmHost] = field(default_factory=dict)
    startup_s: float = FIRST_STARTUP_S
    _starts: deque[float] = field(default_factory=lambda: deque(maxlen=2000))
    _tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    def take(self, ray_id: str) -> str | None:
        """A warm host of the node with this id of Ray's, which is the caller's from now on; None where none is ready.

        Call it for each replica that starts: the calls tell how many are needed.
        """
        self._starts.append(self.clock())
        ready = [host_id for host_id, host in self.hosts.items() if host.ready and host.placed.node_id == ray_id]
        if not ready:
            return None
        del self.hosts[ready[0]]
        return ready[0]

    def adopt(self, placed: Placed) -> None:
        """Keep one that an earlier scheduler started."""
        host = self.hosts[placed.host_id] = WarmHost(placed)
        self._spawn(placed.host_id, self._follow(host))

    def step(
        self, nodes: Collection[RayNode], free_mib: Mapping[str, int], busy: Collection[str], formats: Collection[str]
    ) -> None:
        """Start and remove, towards what each node should have.

        Args:
            nodes: those that take replicas.
            free_mib: by node, memory beside its replicas; warm hosts count nothing in it.
            busy: nodes where replicas start now; those come first.
            formats: what a warm host imports ahead.
        """
        wanted = wanted_warm(self._starts, self.startup_s, self.clock(), len(nodes), self.size)
        kept = {node.ray_id for node in nodes}
        for host_id, host in list(self.hosts.items()):
            if host.placed.node_id not in kept:
                self._drop(host_id)
        for node in nodes:
            name = node.size.name
            here = [host_id for host_id, host in self.hosts.items() if host.placed.node_id == node.ray_id]
            most = fitting(wanted, free_mib.get(name, 0), self.size)
            for host_id in here[most:]:
                self._drop(host_id)
            starting = sum(not self.hosts[host_id].ready for host_id in here[:most])
            if name not in busy and len(here) < most and starting < STARTING_A_NODE:
                self._start(node, formats)
        self.metrics.warm_hosts.clear()
        for host in self.hosts.values():
            self.metrics.warm_hosts.labels(host.placed.node, str(host.ready).lower()).inc()

    async def close(self) -> None:
        """Stop following; the hosts go on."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, node: RayNode, formats: Collection[str]) -> None:
        host_id = f"{WARM_MODEL}.{secrets.token_hex(5)}"
        placed = Placed(
            host_id=host_id,
            tenant="",
            model=WARM_MODEL,
            version=0,
            purpose="warm",
            node=node.size.name,
            node_id=node.ray_id,
            devices=[],
            asked=Resources(host_mem_mib=self.size.memory_mib).model_dump(mode="json"),
            started_at=time.time(),
        )
        host = self.hosts[host_id] = WarmHost(placed)
        self._spawn(host_id, self._begin(host, node.ray_id, self.configure(host_id, formats)))

    def _drop(self, host_id: str) -> None:
        del self.hosts[host_id]
        self._spawn(host_id, self._remove(host_id))

    def _spawn(self, host_id: str, work: Coroutine[Any, Any, None]) -> None:
        held = self._tasks.pop(host_id, None)
        if held is not None:
            held.cancel()
        task = self._tasks[host_id] = asyncio.create_task(work, name=f"warm-{host_id}")
        task.add_done_callback(lambda done: self._done(host_id, done))

    def _done(self, host_id: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(host_id) is task:
            del self._tasks[host_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a warm host is not followed, for a fault of ours", host_id=host_id, exc_info=error)
            self.hosts.pop(host_id, None)

    async def _begin(self, host: WarmHost, ray_id: str, config_json: str) -> None:
        began = self.clock()
        try:
            await self.cluster.start(host.placed, ray_id, 0.0, config_json)
        except (ClusterUnreachable, HostGone) as error:
            await self._give_up(host, error)
            return
        await self._follow(host)
        if host.ready:
            self.startup_s = self.clock() - began
            log.info("warm host", host_id=host.placed.host_id, node=host.placed.node, seconds=round(self.startup_s, 1))

    async def _follow(self, host: WarmHost) -> None:
        """Until it is warm; one that does not become so is removed."""
        host_id = host.placed.host_id
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while not host.ready:
                    identity = await self.cluster.call(host_id, "identity", timeout_s=START_TIMEOUT_S)
                    host.ready = bool(identity["warm"])
                    await asyncio.sleep(0 if host.ready else POLL_S)
        except (TimeoutError, ClusterUnreachable, HostGone, HostRefused) as error:
            await self._give_up(host, error)

    async def _give_up(self, host: WarmHost, error: Exception) -> None:
        log.warning("warm host given up", host_id=host.placed.host_id, error=str(error)[:300])
        self.hosts.pop(host.placed.host_id, None)
        await self._remove(host.placed.host_id)

    async def _remove(self, host_id: str) -> None:
        while True:
            try:
                await self.cluster.remove(host_id)
            except ClusterUnreachable as error:
                log.warning("warm host not removed yet", host_id=host_id, error=str(error)[:300])
                await asyncio.sleep(1.0)
            else:
                return
