"""Pool hosts, live: started where their versions are wanted, told which they hold, reported by version."""

import asyncio
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog
from pydantic import TypeAdapter

from moorage_common.contracts.desired import DesiredVersion, LoadSpec, ReplicaState, ReplicaStatus, Resources
from moorage_common.contracts.endpoints import HeldVersion
from moorage_scheduler.changes import Running, compare
from moorage_scheduler.cluster import ClusterUnreachable, HostGone, HostRefused
from moorage_scheduler.grouping import PoolSize, grouped
from moorage_scheduler.hosts import Fleet, Host, Identity, VersionKey
from moorage_scheduler.targets import Targets

log = structlog.get_logger()

POOL_MODEL = "_pool"
"""In the place of a model's name, which cannot begin with an underscore."""
SPECS_A_CALL = 200
POLL_S = 0.1
TELL_TIMEOUT_S = 35.0

_SPECS = TypeAdapter(list[LoadSpec])
_STATES: dict[str, ReplicaState] = {"ready": "ready", "failed": "failed", "draining": "stopping", "loading": "loading"}

PoolKey = tuple[str, int]
"""Tenant and number of the pool."""
Inside = dict[tuple[str, int], HeldVersion]
StartPool = Callable[[str, int, Resources], str | None]
"""Tenant, number of the pool, what a host of it takes -> places and starts one; the reason when it has to wait."""


@dataclass
class Pools:
    """All pools of the cluster. Their hosts are the fleet's, of purpose `pool`."""

    fleet: Fleet
    targets: Targets
    start: StartPool
    leaves: Callable[[Host], bool]
    """Whether a host has to leave its node."""
    size: PoolSize
    _pool_of: dict[VersionKey, int] = field(default_factory=dict)
    _told: dict[str, dict[tuple[str, int], LoadSpec]] = field(default_factory=dict)
    """By generation of a host: what it was told to hold."""
    _inside: dict[str, tuple[Identity, Inside]] = field(default_factory=dict)
    _tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    def hosts(self) -> dict[PoolKey, list[Host]]:
        """The hosts of each pool."""
        found: dict[PoolKey, list[Host]] = defaultdict(list)
        for host in self.fleet.hosts.values():
            if host.placed.purpose == "pool":
                found[host.placed.tenant, host.placed.version].append(host)
        return found

    def step(self, wanted: Mapping[VersionKey, DesiredVersion], now: float) -> dict[VersionKey, list[str]]:
        """Bring the pools to what is wanted; for each version that waits, why."""
        hosts = self.hosts()
        self._learn(hosts)
        sizes = [(key, version.load.artifact.size_bytes) for key, version in wanted.items()]
        self._pool_of = grouped(sizes, self._pool_of, self.size)
        members: dict[PoolKey, dict[VersionKey, DesiredVersion]] = defaultdict(dict)
        for key, number in self._pool_of.items():
            members[key[0], number][key] = wanted[key]
        queued: dict[VersionKey, list[str]] = {}
        for pool in sorted({*members, *hosts}):
            reasons = self._bring(pool, members[pool], hosts.get(pool, []), now)
            if reasons:
                queued |= {key: reasons for key in members[pool] if not self.ready(key, hosts)}
        alive = {host.identity.generation for held in hosts.values() for host in held if host.identity is not None}
        for generation in self._told.keys() - alive:
            del self._told[generation]
        for host_id in self._inside.keys() - self.fleet.hosts.keys():
            del self._inside[host_id]
        return queued

    def ready(self, key: VersionKey, hosts: Mapping[PoolKey, Sequence[Host]] | None = None) -> bool:
        """Whether a pool answers for the version."""
        held = (hosts or self.hosts()).get((key[0], self._pool_of.get(key, -1)), ())
        return any(self._state(host, key) == "ready" for host in held)

    def holds(self, key: VersionKey) -> bool:
        """Whether the version is a pool's."""
        return key in self._pool_of

    def statuses(self) -> dict[tuple[str, str], list[ReplicaStatus]]:
        """The replicas in pools of each deployment: a pool's hosts, seen by version."""
        hosts = self.hosts()
        found: dict[tuple[str, str], list[ReplicaStatus]] = defaultdict(list)
        for key, number in self._pool_of.items():
            for host in hosts.get((key[0], number), ()):
                found[key[:2]].append(self._status(host, key))
        return found

    async def close(self) -> None:
        """Stop telling; the hosts go on."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _learn(self, hosts: Mapping[PoolKey, Iterable[Host]]) -> None:
        """Take over where versions are from hosts that an earlier scheduler started."""
        for (tenant, number), held in hosts.items():
            for host in held:
                if host.identity is not None and host.identity.generation not in self._told:
                    for model, version in self._versions(host):
                        self._pool_of.setdefault((tenant, model, version), number)

    def _bring(
        self, pool: PoolKey, members: Mapping[VersionKey, DesiredVersion], hosts: Sequence[Host], now: float
    ) -> list[str]:
        """Bring one pool to the hosts it should have, and each of them to its versions; why a host has to wait."""
        targets = [
            self.targets.of(key, version, sum(self._state(host, key) == "ready" for host in hosts), now)
            for key, version in members.items()
        ]
        asked = Resources(cpu_milli=self.size.cpu_milli, host_mem_mib=self.size.host_mem_mib)
        running = [self._running(host, members, asked) for host in hosts]
        change = compare(max(targets, default=0), running)
        tenant, number = pool
        reasons = [reason for _ in range(change.start) if (reason := self.start(tenant, number, asked)) is not None]
        for host_id in change.retire:
            self.fleet.retire(host_id)
        for host in hosts:
            if host.state == "ready" and host.reachable:
                self._tell(host, members)
        return reasons

    def _running(self, host: Host, members: Mapping[VersionKey, DesiredVersion], asked: Resources) -> Running:
        inside = self._versions(host)
        settled = all((held := inside.get(key[1:])) is not None and held.state != "loading" for key in members)
        return Running(
            host_id=host.placed.host_id,
            ready=host.state == "ready" and host.reachable and settled,
            leaving=host.state in ("stopping", "failed"),
            current=host.placed.asked == asked.model_dump(mode="json") and not self.leaves(host),
            started_at=host.placed.started_at,
        )

    def _tell(self, host: Host, members: Mapping[VersionKey, DesiredVersion]) -> None:
        """Have a host hold its versions and no others, unless it is being told."""
        host_id = host.placed.host_id
        assert host.identity is not None  # noqa: S101 - a reachable host has said who it is
        if host_id in self._tasks:
            return
        inside, specs = self._versions(host), {key[1:]: version.load for key, version in members.items()}
        told = self._told.get(host.identity.generation)
        if told is None:
            told = self._told[host.identity.generation] = {at: specs[at] for at in inside if at in specs}
        gone = [at for at in inside if at not in specs and inside[at].state != "draining"]
        new = [spec for at, spec in specs.items() if at not in inside or told.get(at) != spec]
        if gone or new:
            anew = [at for at, spec in specs.items() if _failed(inside.get(at)) and _is_other(told.get(at), spec)]
            told.clear()
            told.update(specs)
            task = asyncio.create_task(self._say(host, new, [*gone, *anew]), name=f"pool-{host_id}")
            self._tasks[host_id] = task
            task.add_done_callback(lambda done: self._ended(host_id, done))

    def _ended(self, host_id: str, task: asyncio.Task[None]) -> None:
        del self._tasks[host_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("pool not told, for a fault of ours", host_id=host_id, exc_info=error)

    async def _say(self, host: Host, specs: Sequence[LoadSpec], gone: Iterable[tuple[str, int]]) -> None:
        """Unload, register, and follow until all have settled."""
        host_id, call = host.placed.host_id, self.fleet.cluster.call
        began = time.monotonic()
        try:
            unloads = [call(host_id, "unload", *at, timeout_s=TELL_TIMEOUT_S, retries=0) for at in gone]
            await asyncio.gather(*unloads)
            for first in range(0, len(specs), SPECS_A_CALL):
                payload = _SPECS.dump_json(list(specs[first : first + SPECS_A_CALL])).decode()
                await call(host_id, "register", payload, timeout_s=TELL_TIMEOUT_S)
            await self.fleet.refresh(host)
            while host.reachable and any(held.state == "loading" for held in self._versions(host).values()):
                await asyncio.sleep(POLL_S)
                await self.fleet.refresh(host)
        except (ClusterUnreachable, HostGone, HostRefused) as error:
            log.warning("pool not told", host_id=host_id, error=str(error)[:300])
            if host.identity is not None:
                self._told.pop(host.identity.generation, None)
            await asyncio.sleep(1.0)
            return
        took = round(time.monotonic() - began, 2)
        log.info("pool told", host_id=host_id, registered=len(specs), unloaded=len(unloads), seconds=took)

    def _versions(self, host: Host) -> Inside:
        """What the host last said of its versions."""
        if host.identity is None:
            return {}
        held = self._inside.get(host.placed.host_id)
        if held is None or held[0] is not host.identity:
            held = (host.identity, {(v.model, v.version): v for v in host.identity.versions})
            self._inside[host.placed.host_id] = held
        return held[1]

    def _state(self, host: Host, key: VersionKey) -> ReplicaState:
        if host.state != "ready" or not host.reachable:
            return host.state if host.state in ("stopping", "failed") else "starting"
        held = self._versions(host).get(key[1:])
        return _STATES[held.state] if held is not None else "loading"

    def _status(self, host: Host, key: VersionKey) -> ReplicaStatus:
        held = self._versions(host).get(key[1:])
        return ReplicaStatus(
            host_id=host.placed.host_id,
            version=key[2],
            state=self._state(host, key),
            reason=held.reason if held is not None else host.reason,
            node=host.placed.node,
            restarts=host.restarts,
            started_at=host.placed.started_at,
            ready_at=host.ready_at,
        )


def _failed(held: HeldVersion | None) -> bool:
    return held is not None and held.state == "failed"


def _is_other(told: LoadSpec | None, spec: LoadSpec) -> bool:
    return told is not None and _lasting(told) != _lasting(spec)


def _lasting(spec: LoadSpec) -> LoadSpec:
    """All but the URL, which is signed anew now and then: that is no reason to try a failed version again."""
    return spec.model_copy(update={"artifact": spec.artifact.model_copy(update={"url": ""})})


def pool_host_id(tenant: str, number: int) -> str:
    """A new one."""
    return f"{tenant}.{POOL_MODEL}.{number}.{secrets.token_hex(3)}"
