"""What the scheduler tells others: endpoints for routers, status for the registry, which makes events of it."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from moorage_common.bus import BUS_ERRORS, Bus
from moorage_common.contracts.desired import ReplicaStatus, Status, ValidationResult
from moorage_common.contracts.endpoints import Endpoint, HeldVersion
from moorage_common.contracts.names import desired_key, endpoint_key
from moorage_common.contracts.versioned import HEARTBEAT_PREFIX, Heartbeat, Versioned
from moorage_common.kv import BucketWriter
from moorage_scheduler.hosts import Failure, Host, VersionKey

TOMBSTONE_S = 600.0
STATUS_LOG_LINES = 60


@dataclass
class Publisher:
    """The scheduler's keys of one bucket: the whole in memory, each change written at once.

    `epoch` is the leader's fencing number, so that what an earlier one wrote never wins. Nothing is written but while
    `may_write` says yes.
    """

    bus: Bus
    bucket: str
    cluster: str
    may_write: Callable[[], bool] = lambda: True
    epoch: int = 0
    entries: dict[str, Versioned] = field(default_factory=dict)
    writer: BucketWriter = field(init=False)
    _version: int = 0
    _dropped_at: dict[str, float] = field(default_factory=dict)
    _puts: set[asyncio.Task[Any]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.writer = BucketWriter(
            self.bus, self.bucket, self.cluster, self.source, prefix=f"{self.cluster}.", may_write=self.may_write
        )

    def lead(self, epoch: int) -> None:
        """Write with this epoch from now on, and what is held already."""
        self.epoch = self.writer.epoch = epoch
        self.entries = {key: held.model_copy(update={"epoch": epoch}) for key, held in self.entries.items()}

    async def found_epoch(self) -> int:
        """That of the writer before; 0 where none is known."""
        with contextlib.suppress(*BUS_ERRORS, ValidationError):
            kv = await self.bus.bucket(self.bucket)
            entry = await kv.get(f"{HEARTBEAT_PREFIX}{self.cluster}")
            return Heartbeat.model_validate_json(entry.value or b"").epoch
        return 0

    async def source(self) -> Mapping[str, Versioned]:
        """All entries; tombstones for ten minutes, which outlive any reader's outage that a watch would not notice."""
        now = time.monotonic()
        for key in [key for key, at in self._dropped_at.items() if now - at > TOMBSTONE_S]:
            del self._dropped_at[key]
            self.entries.pop(key, None)
        return dict(self.entries)

    def hold(self, key: str, value: dict[str, Any] | None) -> None:
        """Hold and write `value` (None: the thing is gone) unless it is what is held."""
        held = self.entries.get(key)
        if (held.value if held is not None else None) == value:
            return
        self._version += 1
        entry = self.entries[key] = Versioned(epoch=self.epoch, version=self._version, value=value)
        if value is None:
            self._dropped_at[key] = time.monotonic()
        else:
            self._dropped_at.pop(key, None)
        put = asyncio.create_task(self.writer.put(key, entry), name=key)
        self._puts.add(put)
        put.add_done_callback(self._puts.discard)

    def written(self, key: str) -> bool:
        """Whether what is held of `key` has reached the bucket, as far as is known."""
        return not self.writer.behind and key in self.entries and all(put.get_name() != key for put in self._puts)

    def live(self) -> set[str]:
        """Keys that are not tombstones."""
        return {key for key, entry in self.entries.items() if entry.value is not None}


def endpoint(cluster: str, host: Host) -> Endpoint | None:
    """What routers may use of `host`; None while its process is away."""
    if host.identity is None or not host.reachable:
        return None
    versions = host.identity.versions
    if host.placed.purpose == "pool":  # hundreds: those that can be used, and no texts
        versions = [
            HeldVersion(model=v.model, version=v.version, state=v.state) for v in versions if v.state != "failed"
        ]
    if host.state in ("stopping", "failed"):
        versions = [HeldVersion(model=v.model, version=v.version, state="draining") for v in versions]
    return Endpoint(
        cluster=cluster,
        host_id=host.placed.host_id,
        tenant=host.placed.tenant,
        address=host.identity.address,
        generation=host.identity.generation,
        token=host.identity.token,
        versions=versions,
        node=host.placed.node,
        devices=host.identity.devices,
    )


def replica_status(host: Host) -> ReplicaStatus:
    got_milli = host.placed.gpu_milli
    return ReplicaStatus(
        host_id=host.placed.host_id,
        version=host.placed.version,
        state=host.state,
        reason=host.reason,
        node=host.placed.node,
        devices=host.identity.devices if host.identity is not None else host.placed.devices,
        gpu_milli=host.held().ask.device_milli() if got_milli is None else got_milli,
        restarts=host.restarts,
        started_at=host.placed.started_at,
        ready_at=host.ready_at,
    )


def status(
    cluster: str,
    deployment: tuple[str, str],
    *,
    hosts: Iterable[Host],
    pooled: Iterable[ReplicaStatus] = (),
    queued: Mapping[VersionKey, list[str]],
    failures: Mapping[VersionKey, Failure],
    validations: list[ValidationResult],
) -> Status:
    """How a deployment stands.

    Args:
        pooled: the replicas that it has in pools.
        queued: for each version, a reason for each replica that fits nowhere now.
    """
    tenant, model = deployment
    replicas: list[ReplicaStatus] = []
    lines: list[str] = []
    for host in hosts:
        replicas.append(replica_status(host))
        lines += host.log_lines
    replicas += pooled
    for (_tenant, _model, version), reasons in sorted(queued.items()):
        for number, reason in enumerate(reasons):
            host_id = f"{tenant}.{model}.{version}.queued-{number}"
            replicas.append(ReplicaStatus(host_id=host_id, version=version, state="pending", reason=reason))
    present = {replica.host_id for replica in replicas}
    gone = {key: failure for key, failure in failures.items() if failure.host_id not in present}
    for (_tenant, _model, version), failure in sorted(gone.items()):
        replicas.append(ReplicaStatus(host_id=failure.host_id, version=version, state="failed", reason=failure.reason))
        lines += failure.log_lines
    return Status(
        cluster=cluster,
        tenant=tenant,
        model=model,
        replicas=replicas,
        validations=validations,
        log_lines=lines[-STATUS_LOG_LINES:],
    )


@dataclass
class Reports:
    """Endpoints and status of one cluster."""

    cluster: str
    endpoints: Publisher
    statuses: Publisher

    async def found_epoch(self) -> int:
        """The highest that another leader wrote with."""
        return max(await self.endpoints.found_epoch(), await self.statuses.found_epoch())

    def lead(self, epoch: int) -> None:
        """Write with this epoch from now on."""
        self.endpoints.lead(epoch)
        self.statuses.lead(epoch)

    def told(self, host_id: str) -> bool:
        """Whether the bucket has the host's endpoint as it is now, for routers to see."""
        return self.endpoints.written(endpoint_key(self.cluster, host_id))

    def host_changed(self, host: Host, *, present: bool) -> None:
        """Tell routers at once."""
        held = endpoint(self.cluster, host) if present else None
        key = endpoint_key(self.cluster, host.placed.host_id)
        self.endpoints.hold(key, held.model_dump(mode="json") if held is not None else None)

    def status_changed(self, status: Status) -> None:
        key = desired_key(self.cluster, status.tenant, status.model)
        self.statuses.hold(key, status.model_dump(mode="json"))

    def keep_statuses_of(self, deployments: Iterable[tuple[str, str]]) -> None:
        """Drop the status of every deployment that is not among these."""
        wanted = {desired_key(self.cluster, tenant, model) for tenant, model in deployments}
        for key in self.statuses.live() - wanted:
            self.statuses.hold(key, None)
