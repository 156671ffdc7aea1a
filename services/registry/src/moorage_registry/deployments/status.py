"""What schedulers report: results of validation runs, replicas that start and are lost, the last log lines.

Reports are key-value entries, so the newest stands for all before it. They are taken in once each; taking one in
again changes nothing, since runs are known by their id and replicas are compared with stored rows.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import structlog
from pydantic import ValidationError

from moorage_common.bus import Bus
from moorage_common.contracts.desired import Status
from moorage_common.contracts.names import BUCKET_STATUS, TenantId, desired_key
from moorage_common.contracts.request_id import new_ulid
from moorage_common.contracts.versioned import Versioned
from moorage_common.kv import BucketReader
from moorage_registry.catalog.repository import CatalogRepository
from moorage_registry.catalog.service import CatalogService
from moorage_registry.deployments.replicas import Place, Seen, Transition, transitions
from moorage_registry.deployments.repository import DeploymentRepository
from moorage_registry.deployments.tables import ReplicaRow
from moorage_registry.work import Work, Works

log = structlog.get_logger()


Facts = tuple[frozenset[str], frozenset[tuple[str, int, str, int]]]


def facts_of(status: Status) -> Facts:
    """What of a report ends up in rows: results and replicas, not log lines."""
    replicas = frozenset((r.host_id, r.version, r.state, r.restarts) for r in status.replicas)
    return frozenset(result.run_id for result in status.validations), replicas


@dataclass
class StatusReports:
    """The newest report of each model, in memory, and the task that takes them in."""

    bus: Bus
    works: Works
    cluster: str
    _latest: dict[str, Status] = field(default_factory=dict)
    _taken: dict[str, Facts] = field(default_factory=dict)
    _changed: dict[str, None] = field(default_factory=dict)
    _awake: asyncio.Event = field(default_factory=asyncio.Event)

    def of(self, tenant: TenantId, model: str) -> Status:
        """The last report; an empty one where there was none."""
        key = desired_key(self.cluster, tenant, model)
        return self._latest.get(key) or Status(cluster=self.cluster, tenant=tenant, model=model)

    def all_of(self, tenant: TenantId) -> list[Status]:
        """The last report of each of the tenant's models."""
        return [status for status in self._latest.values() if status.tenant == tenant]

    def tasks(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """What must run for as long as the registry does, by name."""
        reader = BucketReader(self.bus, BUCKET_STATUS, self._note)
        return {"read-status": reader.run, "take-in-status": self._take_in_changed}

    def _note(self, key: str, entry: Versioned) -> None:
        if entry.value is None:
            self._latest.pop(key, None)
        else:
            try:
                self._latest[key] = Status.model_validate(entry.value)
            except ValidationError as error:
                log.warning("unreadable status ignored", key=key, errors=error.error_count())
                return
        self._changed[key] = None
        self._awake.set()

    async def _take_in_changed(self) -> None:
        while True:
            await self._awake.wait()
            self._awake.clear()
            while self._changed:
                key = next(iter(self._changed))
                del self._changed[key]
                status = self._report(key)
                facts = facts_of(status)
                if self._taken.get(key) == facts:
                    continue
                try:
                    await self.take_in(status)
                    self._taken[key] = facts
                except BaseException:
                    self._changed[key] = None
                    self._awake.set()
                    raise

    def _report(self, key: str) -> Status:
        cluster, tenant, model = key.split(".", 2)
        return self._latest.get(key) or Status(cluster=cluster, tenant=tenant, model=model)

    async def take_in(self, status: Status) -> None:
        """Bring rows to what `status` says, with an event for each change; nothing where there is no such model."""
        tenant = TenantId(status.tenant)
        async with self.works.begin(tenant, f"scheduler:{status.cluster}") as work:
            if await CatalogRepository(work.session).model(tenant, status.model, lock=True) is None:
                return
            for result in status.validations:
                await CatalogService(work).settle(status.model, result)
            await _store_replicas(work, status)


async def _store_replicas(work: Work, status: Status) -> None:
    rows = DeploymentRepository(work.session)
    stored = {(r.host_id, r.version): r for r in await rows.replicas(work.tenant, status.model, status.cluster)}
    seen = {place: Seen(r.state, r.restarts) for place, r in stored.items()}
    wanted = await _wanted(rows, work.tenant, status.model)
    for change in transitions(seen, status.replicas, wanted):
        _emit(work, status, change)
    reported: set[Place] = set()
    for replica in status.replicas:
        place = (replica.host_id, replica.version)
        reported.add(place)
        row = stored.get(place)
        if row is None:
            row = ReplicaRow(model=status.model, cluster=status.cluster, host_id=place[0], version=place[1])
            rows.add(work.tenant, row)
        if (row.state, row.restarts) != (replica.state, replica.restarts):
            row.state, row.restarts, row.updated_at = replica.state, replica.restarts, work.now
    for place in stored.keys() - reported:
        await rows.forget_replica(work.tenant, stored[place])


def _emit(work: Work, status: Status, change: Transition) -> None:
    """Rows and events are one transaction, so a change is seen once; host ids may come again, hence the ULID."""
    host_id, version = change.place
    work.happened(
        "replica.started" if change.verb == "started" else "replica.lost",
        f"deployments/{status.model}",
        1,
        aggregate=f"replicas/{status.cluster}/{host_id}/{version}/{new_ulid()}",
        replica={"host_id": host_id, "version": version, "cluster": status.cluster},
        reason=change.reason,
    )


async def _wanted(rows: DeploymentRepository, tenant: TenantId, model: str) -> frozenset[int]:
    row = await rows.get(tenant, model)
    if row is None or row.deleted:
        return frozenset()
    return frozenset((await rows.revision(tenant, row)).numbers())


def ready_by_version(status: Status) -> dict[int, int]:
    """How many replicas of each version are ready."""
    counts: dict[int, int] = {}
    for replica in status.replicas:
        counts.setdefault(replica.version, 0)
        counts[replica.version] += replica.state == "ready"
    return counts


def held_gpu_milli(statuses: Sequence[Status]) -> dict[tuple[str, int], int]:
    """GPU held by (model, version), in thousandths of a device."""
    held: dict[tuple[str, int], int] = {}
    for status in statuses:
        for replica in status.replicas:
            place = (status.model, replica.version)
            held[place] = held.get(place, 0) + replica.gpu_milli * max(1, len(replica.devices))
    return held
