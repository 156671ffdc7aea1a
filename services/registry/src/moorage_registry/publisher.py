"""What routers and schedulers read: the buckets keys, limits, routes, desired and clusters, written from the database.

A commit names what it touched; each of those is read anew and put at once. While the bus is away they wait, and every
30 s all buckets are compared with the database, so nothing is lost when a bucket is.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from moorage_common.bus import Bus
from moorage_common.clock import Clock
from moorage_common.contracts.desired import Desired
from moorage_common.contracts.keys import KeyRecord
from moorage_common.contracts.model import Contract
from moorage_common.contracts.names import (
    BUCKET_CLUSTERS,
    BUCKET_DESIRED,
    BUCKET_KEYS,
    BUCKET_LIMITS,
    BUCKET_ROUTES,
    TenantId,
    desired_key,
    route_key,
)
from moorage_common.contracts.versioned import Versioned
from moorage_common.db import Database
from moorage_common.kv import BucketWriter
from moorage_registry.catalog.repository import CatalogRepository
from moorage_registry.catalog.urls import DAY_S, ArtifactUrls
from moorage_registry.clusters.repository import ClusterRepository
from moorage_registry.clusters.service import intent_of
from moorage_registry.clusters.tables import ClusterRow
from moorage_registry.deployments.states import ModelStates
from moorage_registry.deployments.views import ModelState, desired_of, route_of
from moorage_registry.keys.principals import rate_of
from moorage_registry.keys.repository import KeyRepository
from moorage_registry.keys.tables import KeyRow
from moorage_registry.tenants.repository import TenantRepository
from moorage_registry.tenants.service import limits_of
from moorage_registry.tenants.tables import TenantRow
from moorage_registry.work import Touched

log = structlog.get_logger()

WRITER = "registry"
DEAD_KEYS_S = 86_400.0
"""How long revoked and expired keys stay published."""
_RETRY_S = 1.0
_DAYS = 1_000_000
_LAST = 2**62


def key_record(row: KeyRow, epoch: int) -> Versioned:
    record = KeyRecord(
        kid=row.kid,
        tenant=row.tenant,
        digest=row.digest,
        pepper_version=row.pepper_version,
        scopes=row.scopes,
        not_before=row.not_before,
        expires_at=row.expires_at,
        revoked=row.revoked_at is not None,
        subject=row.subject,
        cidrs=row.cidrs,
        rate=rate_of(row),
    )
    return _versioned(epoch, row.version, record)


def _versioned(epoch: int, version: int, value: Contract | None) -> Versioned:
    return Versioned(epoch=epoch, version=version, value=value.model_dump(mode="json") if value is not None else None)


def _urgency(touched: Touched) -> int:
    """Who may call goes before what is served."""
    return 1 if touched.kind in ("model", "cluster") else 0


@dataclass
class Publisher:
    """The one writer of five buckets."""

    db: Database
    bus: Bus
    clock: Clock
    cluster: str
    urls: ArtifactUrls
    epoch: int
    _touched: set[Touched] = field(default_factory=set)
    _awake: asyncio.Event = field(default_factory=asyncio.Event)
    _writers: dict[str, BucketWriter] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sources = {
            BUCKET_KEYS: self.all_keys,
            BUCKET_LIMITS: self.all_limits,
            BUCKET_ROUTES: self.all_routes,
            BUCKET_DESIRED: self.all_desired,
            BUCKET_CLUSTERS: self.all_clusters,
        }
        self._writers = {
            bucket: BucketWriter(self.bus, bucket, WRITER, source, epoch=self.epoch)
            for bucket, source in sources.items()
        }

    def touch(self, touched: set[Touched]) -> None:
        """Publish these anew, soon."""
        if touched:
            self._touched |= touched
            self._awake.set()

    async def put_route(self, tenant: TenantId, model: str) -> bool:
        """Write a model's route at once, past whatever else waits. False when the bus is away: then it waits too."""
        async with self.db.read() as session:
            state = await ModelStates(session).one(tenant, model)
        if state is None:
            return False
        return await self._writers[BUCKET_ROUTES].put(route_key(tenant, model), self._route(state))

    def tasks(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """What must run for as long as the registry does, by name."""
        writers = {f"write-{bucket}": writer.run for bucket, writer in self._writers.items()}
        return {**writers, "put-touched": self._put_touched}

    async def _put_touched(self) -> None:
        while True:
            await self._awake.wait()
            self._awake.clear()
            await self.bus.wait()
            for touched in sorted(self._touched, key=_urgency):
                self._touched.discard(touched)
                written = False
                try:
                    written = await self._put(touched)
                finally:
                    if not written:
                        self._touched.add(touched)
            if self._touched and not self._awake.is_set():
                await asyncio.sleep(_RETRY_S)
                self._awake.set()

    async def _put(self, touched: Touched) -> bool:
        """Write what `touched` is now; False when the bus is away."""
        async with self.db.read() as session:
            entries = await self._entries(session, touched)
        written = [await self._writers[bucket].put(key, entry) for bucket, key, entry in entries]
        if not all(written):
            return False
        await self._mark_validating(touched, entries)
        return True

    async def _entries(self, session: AsyncSession, touched: Touched) -> list[tuple[str, str, Versioned]]:
        tenant, name = touched.tenant, touched.name
        if touched.kind == "key":
            key = await KeyRepository(session).get(tenant, name)
            return [(BUCKET_KEYS, name, key_record(key, self.epoch))] if key is not None else []
        if touched.kind == "limits":
            row = await TenantRepository(session).get(tenant)
            return [(BUCKET_LIMITS, name, self._limits(row))] if row is not None else []
        if touched.kind == "cluster":
            cluster = await ClusterRepository(session).get(name)
            return [(BUCKET_CLUSTERS, name, self._cluster(cluster))] if cluster is not None else []
        state = await ModelStates(session).one(tenant, name)
        if state is None:
            return self._gone(tenant, name)
        return [
            (BUCKET_ROUTES, route_key(tenant, name), self._route(state)),
            (BUCKET_DESIRED, desired_key(self.cluster, tenant, name), self._desired(state)),
        ]

    def _gone(self, tenant: TenantId, model: str) -> list[tuple[str, str, Versioned]]:
        """Of a deleted tenant's model: no version of it ever comes after this."""
        last = Versioned(epoch=self.epoch, version=_LAST, value=None)
        return [
            (BUCKET_ROUTES, route_key(tenant, model), last),
            (BUCKET_DESIRED, desired_key(self.cluster, tenant, model), last),
        ]

    async def _mark_validating(self, touched: Touched, entries: list[tuple[str, str, Versioned]]) -> None:
        """A version whose validation run is on the bus is no longer merely uploaded."""
        runs: set[str] = set()
        for bucket, _key, entry in entries:
            if bucket == BUCKET_DESIRED and entry.value is not None:
                runs = {run.run_id for run in Desired.model_validate(entry.value).validations}
        if runs:
            async with self.db.write() as session:
                await CatalogRepository(session).mark_validating(touched.tenant, touched.name, runs)

    def _limits(self, row: TenantRow) -> Versioned:
        return _versioned(self.epoch, row.version, limits_of(row))

    def _cluster(self, row: ClusterRow) -> Versioned:
        return _versioned(self.epoch, row.version, intent_of(row))

    def _route(self, state: ModelState) -> Versioned:
        return _versioned(self.epoch, state.revision, route_of(state, self.cluster))

    def _desired(self, state: ModelState) -> Versioned:
        """The day is part of the version, since the URLs are signed anew each day: (revision, day) only grows."""
        now = self.clock()
        value = desired_of(state, self.cluster, lambda tenant, digest: self.urls.sign(tenant, digest, now))
        return _versioned(self.epoch, state.revision * _DAYS + int(now) // DAY_S, value)

    async def all_keys(self) -> Mapping[str, Versioned]:
        """Every key, dead ones for another 24 h, so that no older record of theirs is taken for the truth."""
        async with self.db.read() as session:
            rows = await KeyRepository(session).published(self.clock() - DEAD_KEYS_S)
        return {row.kid: key_record(row, self.epoch) for row in rows}

    async def all_limits(self) -> Mapping[str, Versioned]:
        async with self.db.read() as session:
            rows = await TenantRepository(session).all()
        return {row.name: self._limits(row) for row in rows}

    async def all_clusters(self) -> Mapping[str, Versioned]:
        async with self.db.read() as session:
            rows = await ClusterRepository(session).all()
        return {row.name: self._cluster(row) for row in rows}

    async def all_routes(self) -> Mapping[str, Versioned]:
        """Routes of all models; tombstones of what is not deployed."""
        return {route_key(s.tenant, s.model): self._route(s) for s in await self._states()}

    async def all_desired(self) -> Mapping[str, Versioned]:
        return {desired_key(self.cluster, s.tenant, s.model): self._desired(s) for s in await self._states()}

    async def _states(self) -> list[ModelState]:
        async with self.db.read() as session:
            return await ModelStates(session).all()
