"""Replica hosts and how they fare: started, followed, restarted by Ray, given up, drained, stopped.

One task follows one host. It asks the actor who it is until its versions are loaded, then waits on an open connection
to the host's port: the kernel closes it the moment the process dies, seconds before Ray says so.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from moorage_common.contracts.desired import ReplicaState
from moorage_common.contracts.endpoints import HeldVersion
from moorage_common.contracts.model import Contract
from moorage_scheduler.asking import held_of
from moorage_scheduler.cluster import Cluster, ClusterUnreachable, HostGone, HostRefused, NotLeading, Placed
from moorage_scheduler.crashes import CRASHES, POOL_CRASHES, Crashes, first_line
from moorage_scheduler.listening import closed
from moorage_scheduler.metrics import SchedulerMetrics
from moorage_scheduler.placement.state import ClusterState, Held

log = structlog.get_logger()

START_TIMEOUT_S = 90.0
RECHECK_S = 2.0
LOADING_POLL_S = 0.1
LEAVE_GRACE_S = 3.0
"""Between telling routers to send no more and stopping: they act on it within a heartbeat."""
UNLOAD_TIMEOUT_S = 35.0
LOG_LINES = 40

VersionKey = tuple[str, str, int]
"""Tenant, model, version."""


class Identity(Contract):
    """What `ReplicaHost.identity` answers."""

    generation: str
    token: str
    address: str
    pid: int
    devices: list[int]
    versions: list[HeldVersion]


@dataclass
class Host:
    """A host that has a place. `state` is that of its version; `lost_at` is set while its process is away."""

    placed: Placed
    state: ReplicaState = "starting"
    reason: str = ""
    identity: Identity | None = None
    restarts: int = 0
    ready_at: float | None = None
    lost_at: float | None = None
    lost_generation: str = ""
    recovering_since: float | None = None
    log_lines: list[str] = field(default_factory=list)
    assignment: "Start | None" = None
    """What a warm host was made; a process of it that Ray starts anew is told again."""

    @property
    def reachable(self) -> bool:
        """Whether `identity` is that of a process that lives, as far as is known."""
        return self.identity is not None and self.lost_at is None

    @property
    def key(self) -> VersionKey:
        return (self.placed.tenant, self.placed.model, self.placed.version)

    @property
    def leaving(self) -> bool:
        return self.state in ("stopping", "failed")

    @property
    def serving(self) -> bool:
        return self.state == "ready" and self.reachable

    def held(self) -> Held:
        return replace(held_of(self.placed), leaving=self.leaving)


@dataclass(frozen=True)
class Failure:
    """Why a version is not tried again until what is desired of it changes."""

    host_id: str
    reason: str
    log_lines: list[str]


@dataclass(frozen=True)
class Start:
    """What a new host is started with. `warm`: it runs already and is assigned."""

    placed: Placed
    ray_id: str
    gpu_fraction: float
    config_json: str
    warm: bool = False


@dataclass
class Fleet:
    """All replica hosts of the cluster. `on_change` is called after each change of a host, also when it has gone.

    A host is in `account` from the decision to start it until Ray has confirmed that it is removed.
    """

    cluster: Cluster
    metrics: SchedulerMetrics
    on_change: Callable[[Host], None]
    account: ClusterState = field(default_factory=ClusterState)
    hosts: dict[str, Host] = field(default_factory=dict)
    failures: dict[VersionKey, Failure] = field(default_factory=dict)
    _crashes: Crashes = field(default_factory=Crashes)
    _tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _heard: asyncio.Event = field(default_factory=asyncio.Event)

    def start(self, start: Start) -> None:
        """Begin to start a host; it counts as placed from now on."""
        host = self._add(start.placed)
        host.assignment = start if start.warm else None
        self.metrics.placements.inc()
        self._spawn(host, self._start(host, start))

    def adopt(self, placed: Placed) -> None:
        """Follow a host that runs already."""
        if placed.host_id in self.hosts:
            return
        host = self._add(placed)
        log.info("adopting a host", host_id=placed.host_id, node=placed.node, devices=placed.devices)
        self._spawn(host, self._follow(host))

    def arriving(self, host: Host) -> bool:
        """Whether it will take the place of a host that still counts."""
        source = self.hosts.get(host.placed.moved_from)
        return source is not None and not source.leaving

    def retire(self, host_id: str, reason: str = "") -> None:
        """Stop a host without losing a request: routers leave first, what is in flight ends, then the process."""
        host = self.hosts[host_id]
        if not host.leaving:
            host.state, host.reason = "stopping", reason
            self._leaves(host)
            self._spawn(host, self._retire(host))

    def drop_nodes(self, lost: Collection[str]) -> None:
        """Give up hosts on the nodes with these ids of Ray. It does not speak against their versions."""
        for host in self.hosts.values():
            if host.placed.node_id in lost and not host.leaving:
                log.warning("host lost with its node", host_id=host.placed.host_id, node=host.placed.node)
                host.state, host.reason, host.lost_at = "stopping", "its node was lost", time.time()
                self._crashes.forget(host.key)
                self._leaves(host)
                self._spawn(host, self._remove(host))

    async def settled(self, timeout_s: float) -> None:
        """Wait until every host has said who it is, or is known to be away; at most `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while any(host.identity is None and not host.lost_at for host in self.hosts.values()):
                    self._heard.clear()
                    await self._heard.wait()

    async def close(self) -> None:
        """Stop following; the hosts go on."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _add(self, placed: Placed) -> Host:
        host = self.hosts[placed.host_id] = Host(placed)
        self.account.add(placed.host_id, host.held())
        self.on_change(host)
        return host

    def _leaves(self, host: Host) -> None:
        """Its place is taken still, but others need not count on it."""
        if (held := self.account.held.get(host.placed.host_id)) is not None and not held.leaving:
            self.account.move(host.placed.host_id, replace(held, leaving=True))
        self.on_change(host)

    def _spawn(self, host: Host, work: Coroutine[Any, Any, None]) -> None:
        """Make `work` the one task of `host`, in place of what ran for it."""
        host_id = host.placed.host_id
        if (held := self._tasks.pop(host_id, None)) is not None:
            held.cancel()
        task = self._tasks[host_id] = asyncio.create_task(work, name=f"host-{host_id}")
        task.add_done_callback(lambda task: self._ended(host, task))

    def _ended(self, host: Host, task: asyncio.Task[None]) -> None:
        host_id = host.placed.host_id
        if self._tasks.get(host_id) is task:
            del self._tasks[host_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("giving up a host, for a fault of ours", host_id=host_id, exc_info=error)
            if host_id in self.hosts:
                self._spawn(host, self._remove(host))

    async def refresh(self, host: Host) -> None:
        """Ask a host how its versions are now. Raises ClusterUnreachable, HostGone, HostRefused."""
        if host.state == "ready" and host.reachable:
            await self._ask(host)

    async def _start(self, host: Host, start: Start) -> None:
        try:
            if not start.warm:
                await self.cluster.start(start.placed, start.ray_id, start.gpu_fraction, start.config_json)
        except NotLeading:
            await self._remove(host)
        except (ClusterUnreachable, HostGone) as error:
            await self._crashed(host, f"it could not be started: {first_line(error)}", given_up=True)
        else:
            await self._follow(host)

    async def _follow(self, host: Host) -> None:
        host_id = host.placed.host_id
        while host_id in self.hosts:
            try:
                await self._ask(host)
            except (ClusterUnreachable, HostGone, HostRefused) as error:
                await self._crashed(host, first_line(error), given_up=True)
                return
            if host.state == "failed":
                await self._fail(host)
            elif host.state != "ready":
                await asyncio.sleep(LOADING_POLL_S)
            else:
                await self._watch(host)

    async def _ask(self, host: Host) -> None:
        """Ask the host who it is; one that is being restarted answers when it is back."""
        answer = await self.cluster.call(host.placed.host_id, "identity", timeout_s=START_TIMEOUT_S)
        if not answer["address"]:
            answer = await self._assigned(host)
        identity = Identity.model_validate(answer)
        if host.leaving:
            return  # since it was asked
        if host.reachable and host.identity is not None and identity.generation != host.identity.generation:
            await self._crashed(host, "its process died", given_up=False)
        if host.placed.host_id in self.hosts:
            self._observe(host, identity)

    async def _assigned(self, host: Host) -> dict[str, Any]:
        """Make a host of no tenant what it is to be: a warm one that was taken, at first or started anew by Ray."""
        start = host.assignment
        if start is None:
            raise HostGone("Ray started a warm host anew, and what it was is not known any more")
        return await self.cluster.assign(start.placed, start.ray_id, start.gpu_fraction, start.config_json)

    async def _watch(self, host: Host) -> None:
        """Until the process of a ready host dies, or it says that it is not ready any more."""
        assert host.identity is not None  # noqa: S101 - a ready host has said who it is
        gone = asyncio.create_task(closed(host.identity.address))
        generation, check = host.identity.generation, None
        try:
            while host.state == "ready" and host.identity.generation == generation:
                await asyncio.wait({gone}, timeout=RECHECK_S)
                check = asyncio.create_task(self._recheck(host))
                check.add_done_callback(lambda done: done.cancelled() or done.exception())  # heard of, awaited or not
                await asyncio.wait({gone, check}, return_when=asyncio.FIRST_COMPLETED)
                if check.done():
                    check.result()
                if gone.done() and host.identity.generation == generation:
                    check.cancel()
                    await self._crashed(host, "its process died", given_up=False)
                    return
        except (ClusterUnreachable, HostGone, HostRefused) as error:
            log.debug("no answer", host_id=host.placed.host_id, error=first_line(error))
        finally:
            gone.cancel()
            if check is not None:
                check.cancel()

    async def _recheck(self, host: Host) -> None:
        await self._ask(host)
        await self._read_logs(host)

    def _observe(self, host: Host, identity: Identity) -> None:
        """Take what the host says of itself."""
        before = (host.state, host.identity, host.lost_at)
        if host.identity is not None and identity.generation != host.identity.generation:
            host.restarts += 1
        host.identity = identity
        now = time.time()
        if host.lost_at is not None and host.lost_generation != identity.generation:
            host.recovering_since, host.lost_at = host.lost_at, None
        version = next((v for v in identity.versions if v.version == host.placed.version), None)
        if host.placed.purpose == "pool":
            host.state, host.reason = "ready", ""  # for what its versions are, see `pools`
        elif version is None or version.state == "draining":
            host.state, host.reason = "loading", ""
        else:
            host.state, host.reason = version.state, version.reason
            self._note_failure(host)
        if host.state == "ready" and before[0] != "ready":
            host.ready_at = now
            if host.recovering_since is not None:
                self.metrics.recovery_seconds.observe(now - host.recovering_since)
                host.recovering_since = None
        self._heard.set()
        if (host.state, host.identity, host.lost_at) != before:
            log.info("host", host_id=host.placed.host_id, state=host.state, reason=host.reason, pid=identity.pid)
            self.on_change(host)

    async def _crashed(self, host: Host, reason: str, *, given_up: bool) -> None:
        """The process is gone; Ray restarts it unless it is `given_up`. Three times in a row fail the version."""
        now, seen_before = time.time(), host.lost_at is not None
        host.lost_at = host.recovering_since or host.lost_at or now
        host.lost_generation = host.identity.generation if host.identity else ""
        host.state, host.reason = "starting", reason
        host.log_lines = [*host.log_lines, f"scheduler: {reason}"][-LOG_LINES:]
        self._heard.set()
        log.warning("host lost", host_id=host.placed.host_id, reason=reason, restarted_by_ray=not given_up)
        self.on_change(host)
        if self.arriving(host):
            await self._remove(host)
            return
        if not seen_before:
            alike = [other for other in self.hosts.values() if other.key == host.key and other.serving]
            self._crashes.count(host.key, [one.ready_at for one in (host, *alike)], now)
        most = POOL_CRASHES if host.placed.purpose == "pool" else CRASHES
        if self._crashes.in_a_row(host.key) >= most and await self._node_lives(host, given_up=given_up):
            self._crashes.forget(host.key)
            host.reason = f"its host died {most} times in a row, within a minute of being ready; last: {reason}"
            await self._fail(host)
        elif given_up:
            await self._remove(host)

    async def _node_lives(self, host: Host, *, given_up: bool) -> bool:
        """Whether its process died alone: Ray starts it anew then. With a lost node this task ends in `drop_nodes`."""
        with contextlib.suppress(ClusterUnreachable, HostGone, HostRefused):
            if not given_up:
                await self.cluster.call(host.placed.host_id, "identity", timeout_s=START_TIMEOUT_S)
            alive = {node.ray_id for node in await self.cluster.nodes()}
            return host.placed.node_id in alive or not host.placed.node_id
        return True

    async def _fail(self, host: Host) -> None:
        """Stop the host; the version is not tried again until something else is desired of it.

        One that was to take another's place is only given up: the other goes on.
        """
        host.state = "failed"
        self._note_failure(host)
        self._leaves(host)
        log.warning("host failed", host_id=host.placed.host_id, reason=host.reason, arriving=self.arriving(host))
        await self._read_logs(host)
        noted = self.failures.get(host.key)
        if noted is not None and noted.host_id == host.placed.host_id:
            self._note_failure(host)  # with its last words
        await self._remove(host)

    def _note_failure(self, host: Host) -> None:
        """Without a pause since it became failed: it counts no more from then on, and no other is to be started."""
        if host.state == "failed" and not self.arriving(host):
            self.failures[host.key] = Failure(host.placed.host_id, host.reason, list(host.log_lines))

    async def _retire(self, host: Host) -> None:
        if host.reachable:
            await asyncio.sleep(LEAVE_GRACE_S)
            with contextlib.suppress(ClusterUnreachable, HostGone, HostRefused):
                placed = host.placed
                arguments = ("unload", placed.model, placed.version) if placed.purpose == "replica" else ("stop",)
                await self.cluster.call(placed.host_id, *arguments, timeout_s=UNLOAD_TIMEOUT_S, retries=0)
        await self._remove(host)

    async def _remove(self, host: Host) -> None:
        """Kill the actor and forget the host. Its place counts as taken until Ray has confirmed."""
        if host.state != "failed":
            host.state = "stopping"
        self._leaves(host)
        while True:
            try:
                await self.cluster.remove(host.placed.host_id)
                break
            except Exception as error:  # noqa: BLE001 - whatever it is: who stops here never gives the place back
                log.warning("host not removed yet", host_id=host.placed.host_id, error=str(error))
                await asyncio.sleep(1.0)
        if self.hosts.pop(host.placed.host_id, None) is not None:
            self.account.remove(host.placed.host_id)
        self.on_change(host)

    async def _read_logs(self, host: Host) -> None:
        if host.reachable:
            with contextlib.suppress(ClusterUnreachable, HostGone, HostRefused):
                lines = await self.cluster.call(host.placed.host_id, "logs", LOG_LINES, timeout_s=2.0, retries=0)
                if lines and lines != host.log_lines:
                    host.log_lines = lines
                    self.on_change(host)
