"""What the scheduler is made of, built once in the lifespan."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from typing import Any

import structlog
from nats.aio.msg import Msg

from moorage_common.bus import BUS_ERRORS, Bus
from moorage_common.contracts.desired import LoadSpec
from moorage_common.contracts.load import WakeAnswer
from moorage_common.contracts.names import (
    BUCKET_CLUSTERS,
    BUCKET_DESIRED,
    BUCKET_ENDPOINTS,
    BUCKET_LIMITS,
    BUCKET_STATUS,
    desired_key,
    wake_subject,
)
from moorage_common.contracts.versioned import Versioned
from moorage_common.kv import BucketReader
from moorage_runtime.config import HostConfig
from moorage_runtime.gpu_caps import GpuCaps
from moorage_scheduler import serve_apps
from moorage_scheduler.admission import Admission
from moorage_scheduler.cluster import Cluster, ClusterUnreachable, HostGone, LeftOut
from moorage_scheduler.draining import Draining
from moorage_scheduler.gathering import Gathering
from moorage_scheduler.grouping import PoolSize
from moorage_scheduler.hosts import Fleet, Host, VersionKey
from moorage_scheduler.journal import Journal
from moorage_scheduler.leadership import Leadership, holder_name
from moorage_scheduler.limits import LimitsBoard
from moorage_scheduler.loads import LoadBoard
from moorage_scheduler.metrics import SchedulerMetrics
from moorage_scheduler.moves import MoveLimits, Mover
from moorage_scheduler.nodes import Nodes
from moorage_scheduler.placing import Placing
from moorage_scheduler.pools import Pools
from moorage_scheduler.questions import Questions
from moorage_scheduler.reconcile import Reconciler
from moorage_scheduler.reporting import Reporting
from moorage_scheduler.reports import Publisher, Reports
from moorage_scheduler.settings import Settings
from moorage_scheduler.shares import SharesBoard
from moorage_scheduler.sizing import WarmSize
from moorage_scheduler.starts import StartTimes
from moorage_scheduler.targets import Targets
from moorage_scheduler.validations import Validations
from moorage_scheduler.warm import Warm

log = structlog.get_logger()

CONNECT_RETRY_S = 0.5
SETTLE_S = 10.0
SWEEP_S = 5.0
HOST_MIB = 320
"""What a pooled host takes beside its models: an interpreter, the libraries of its formats, buffers."""
INTENT_S = 3.0
"""How long the drained nodes and the limits are waited for: a registry that writes what is desired writes them too."""


@dataclass(frozen=True)
class Readers:
    """The buckets that the registry writes."""

    desired: BucketReader
    intent: BucketReader
    limits: BucketReader

    async def synced(self) -> None:
        """Until what is desired is known, and what operators want and tenants may have, which may be away longer."""
        await self.desired.synced.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(INTENT_S):
                await self.intent.synced.wait()
                await self.limits.synced.wait()


@dataclass(frozen=True)
class Deps:
    """The composition root."""

    settings: Settings
    bus: Bus
    leadership: Leadership
    cluster: Cluster
    fleet: Fleet
    validations: Validations
    reports: Reports
    loads: LoadBoard
    starts: StartTimes
    reconciler: Reconciler
    questions: Questions
    readers: Readers
    reached: asyncio.Event
    """Set once this process is a driver of the Ray cluster."""
    leading: asyncio.Event
    """Set once this process leads and what ran before has been adopted."""

    async def not_ready(self) -> str | None:
        """Why the scheduler can neither place yet nor stand by."""
        if not self.reached.is_set():
            return "Ray is not reached yet: is its head running at MOORAGE_RAY_ADDRESS, with the same RAY_AUTH_TOKEN?"
        if self.leadership.role == "standby":
            return None
        if not self.leading.is_set():
            return "the lease is not ours yet: is NATS running? That of a scheduler that died runs out within seconds"
        if not self.readers.desired.synced.is_set():
            return "the desired state has not been read yet: are NATS and a registry running?"
        return None


@dataclass(frozen=True)
class _Configs:
    """What new hosts are started with, as JSON."""

    settings: Settings

    def hosting(
        self, host_id: str, tenant: str, loads: list[LoadSpec], *, pool_memory_mib: int = 0, caps: GpuCaps | None = None
    ) -> str:
        return HostConfig(
            host_id=host_id,
            tenant=tenant,
            bind=self.settings.host_bind,
            cache_dir=self.settings.cache_dir,
            loads=loads,
            pool_memory_mib=pool_memory_mib,
            gpu_caps=caps if self.settings.mps else None,
        ).model_dump_json()

    def validating(self, host_id: str, tenant: str) -> str:
        return self.hosting(host_id, tenant, [])

    def warm(self, host_id: str, formats: Collection[str]) -> str:
        told = {"host_id": host_id, "cache_dir": self.settings.cache_dir, "warm": list(formats)}
        return HostConfig.model_validate(told).model_dump_json()


def build(settings: Settings, metrics: SchedulerMetrics, host_class: type[Any]) -> Deps:
    """Wire everything; nothing starts yet."""
    bus = Bus(settings.nats_url.get_secret_value(), f"scheduler-{settings.cluster}")
    leadership = Leadership(bus, settings.cluster, holder=holder_name(settings.scheduler_name))
    reports = Reports(
        settings.cluster,
        endpoints=Publisher(bus, BUCKET_ENDPOINTS, settings.cluster, leadership.valid),
        statuses=Publisher(bus, BUCKET_STATUS, settings.cluster, leadership.valid),
    )
    left_out = LeftOut(settings.serve_cpus, settings.serve_gpus)
    cluster = Cluster(settings.ray_address, host_class, leadership.valid, left_out=left_out)
    metrics.leader.set_function(lambda: float(leadership.valid()))
    metrics.fencing.set_function(lambda: float(leadership.fencing))
    changed, leading = asyncio.Event(), asyncio.Event()

    def format_of(key: VersionKey) -> str | None:
        entry = reconciler.desired.get(desired_key(settings.cluster, *key[:2]))
        versions = entry.versions if entry is not None else []
        return next((version.load.format for version in versions if version.load.version == key[2]), None)

    starts = StartTimes(metrics, format_of)
    fleet = _fleet(cluster, metrics, reports, starts, changed)
    loads, limits = LoadBoard(), LimitsBoard()
    reconciler = _reconciler(settings, fleet, reports, loads=loads, limits=limits, changed=changed)
    questions = Questions(bus, settings.cluster, reconciler, limits, lambda: leading.is_set() and leadership.valid())
    readers = _readers(settings, bus, reconciler, limits)
    return Deps(
        settings, bus, leadership, cluster, fleet, reconciler.validations, reports, loads, starts, reconciler,
        questions, readers, reached=asyncio.Event(), leading=leading,
    )  # fmt: skip


def _fleet(
    cluster: Cluster, metrics: SchedulerMetrics, reports: Reports, starts: StartTimes, changed: asyncio.Event
) -> Fleet:
    """The hosts; what becomes of them is reported, and wakes the reconciler."""

    def on_change(host: Host) -> None:
        present = host.placed.host_id in fleet.hosts
        reports.host_changed(host, present=present)
        starts.changed(host, present=present)
        changed.set()

    fleet = Fleet(cluster, metrics, on_change)
    return fleet


def _reconciler(
    settings: Settings, fleet: Fleet, reports: Reports, *, loads: LoadBoard, limits: LimitsBoard, changed: asyncio.Event
) -> Reconciler:
    """All that decides about the hosts of `fleet`."""
    cluster, metrics, configs = fleet.cluster, fleet.metrics, _Configs(settings)
    nodes = Nodes(cluster, fleet.account, settings.node_grace_s, changed.set)
    validations = Validations(
        cluster,
        metrics,
        configure=configs.validating,
        nodes=lambda: nodes.open,
        account=fleet.account,
        on_result=changed.set,
    )
    targets = Targets(loads)
    warm = Warm(cluster, metrics, configs.warm, _warm_size(settings))
    placing = Placing(fleet, nodes, configs.hosting, warm, settings.pool_memory_mib)
    move_limits = MoveLimits(settings.move_cooldown_s, settings.moves_an_hour)
    mover = Mover(fleet, placing, metrics, move_limits, told=reports.told)
    shares = SharesBoard(limits, settings.reclaim_grace_s)
    admission = Admission(fleet, placing, mover, shares.current, Journal())
    pools = Pools(
        fleet,
        targets,
        start=admission.start_pool,
        leaves=lambda host: host.placed.node in nodes.drained,
        size=_pool_size(settings),
    )
    return Reconciler(
        fleet,
        nodes,
        targets,
        mover,
        admission,
        Draining(fleet, nodes, mover),
        Gathering(fleet, mover, settings.defragmentation_moves_an_hour),
        pools,
        warm,
        validations,
        Reporting(fleet, validations, reports, metrics, pools),
        changed,
    )


def _readers(settings: Settings, bus: Bus, reconciler: Reconciler, limits: LimitsBoard) -> Readers:
    def on_intent(key: str, entry: Versioned) -> None:
        if key == settings.cluster:
            reconciler.intend(entry)

    return Readers(
        desired=BucketReader(bus, BUCKET_DESIRED, reconciler.desire, prefix=f"{settings.cluster}."),
        intent=BucketReader(bus, BUCKET_CLUSTERS, on_intent, prefix=settings.cluster),
        limits=BucketReader(bus, BUCKET_LIMITS, limits.take),
    )


def _warm_size(settings: Settings) -> WarmSize:
    return WarmSize(settings.warm_least, settings.warm_most, settings.warm_memory_mib)


def _pool_size(settings: Settings) -> PoolSize:
    return PoolSize(
        versions=settings.pool_versions,
        memory_mib=settings.pool_memory_mib,
        host_mem_mib=settings.pool_memory_mib + HOST_MIB,
        cpu_milli=settings.pool_cpu_milli,
    )


@contextlib.asynccontextmanager
async def running(deps: Deps) -> AsyncIterator[asyncio.Task[None]]:
    """Run the scheduler; the task yielded ends only with the error that makes going on senseless."""
    await deps.bus.start()
    work = asyncio.create_task(_work(deps), name="scheduler")
    try:
        yield work
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await deps.validations.close()
        await deps.reconciler.pools.close()
        await deps.reconciler.warm.close()
        await deps.fleet.close()
        await deps.cluster.close()
        await deps.leadership.release()
        await deps.bus.close()


async def _work(deps: Deps) -> None:
    """Lead, adopt what runs, and only then write and act: nothing is placed twice or forgotten."""
    async with asyncio.TaskGroup() as group:
        for reader in (deps.readers.desired, deps.readers.intent, deps.readers.limits):
            group.create_task(reader.run())
        group.create_task(_listen(deps))
        group.create_task(deps.questions.listen())
        group.create_task(_reach(deps))
        await deps.leadership.acquire(deps.reached.is_set)
        group.create_task(deps.leadership.keep())
        await _take_over(deps)
        deps.leading.set()
        for publisher in (deps.reports.endpoints, deps.reports.statuses):
            group.create_task(publisher.writer.run())
        group.create_task(deps.reconciler.watch_nodes())
        group.create_task(_sweep(deps))
        await deps.readers.synced()
        group.create_task(deps.reconciler.run())


async def _reach(deps: Deps) -> None:
    while not deps.reached.is_set():
        try:
            await deps.cluster.connect()
            deps.reached.set()
        except ClusterUnreachable as error:
            log.warning("Ray is not reached yet", address=deps.settings.ray_address, error=str(error)[:300])
            await asyncio.sleep(CONNECT_RETRY_S)


async def _take_over(deps: Deps) -> None:
    """Follow what the leader before started, under a number above all that it wrote."""
    await deps.leadership.rise_above(await deps.reports.found_epoch())
    deps.reports.lead(deps.leadership.fencing)
    while True:
        try:
            await deps.reconciler.adopt()
            deps.starts.adopted(deps.fleet.hosts)
            await deps.leadership.rise_above(deps.cluster.found_epoch)
            break
        except ClusterUnreachable as error:
            log.warning("what runs is not known yet", error=str(error)[:300])
            await asyncio.sleep(CONNECT_RETRY_S)
    deps.cluster.epoch = deps.leadership.fencing
    deps.reports.lead(deps.leadership.fencing)
    await deps.fleet.settled(SETTLE_S)


async def _sweep(deps: Deps) -> None:
    """Remove what a leader before ordered and Ray carried out too late for us to adopt. Raises LeadershipLost."""
    while True:
        await asyncio.sleep(SWEEP_S)
        with contextlib.suppress(ClusterUnreachable, HostGone):
            for name, epoch in (await deps.cluster.strangers()).items():
                if epoch > deps.leadership.fencing:
                    raise deps.leadership.step_down(f"{name} was started by a later leader, {epoch}")
                log.warning("removing what an earlier leader started", name=name, epoch=epoch)
                await deps.cluster.remove(name)
            await serve_apps.sweep(deps.cluster)


async def _listen(deps: Deps) -> None:
    """Follow load reports and wake requests."""

    async def on_load(message: Msg) -> None:
        deps.loads.report(message.data)

    async def on_wake(message: Msg) -> None:
        key = deps.loads.wake(message.data)
        if key is None or not (deps.leading.is_set() and deps.leadership.valid()):
            return  # it is the leader's to answer
        deps.starts.metrics.wakes.inc()
        deps.reconciler.changed.set()
        if message.reply:
            waits = key in deps.reconciler.queued  # until when, nobody knows
            ready_in_s = None if waits else deps.starts.ready_in_s(key, deps.fleet.hosts.values())
            with contextlib.suppress(*BUS_ERRORS):
                await message.respond(WakeAnswer(ready_in_s=ready_in_s).model_dump_json().encode())

    await deps.bus.wait()
    await deps.bus.client.subscribe("load.*", cb=on_load)
    await deps.bus.client.subscribe(wake_subject(deps.settings.cluster), cb=on_wake)
