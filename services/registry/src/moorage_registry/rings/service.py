"""Rings: named groups of a tenant's callers, which a version is given to before others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from moorage_common.contracts.names import TenantId
from moorage_common.errors import Conflict, NotFound, Unprocessable
from moorage_registry.catalog.repository import CatalogRepository
from moorage_registry.deployments.repository import DeploymentRepository
from moorage_registry.keys.repository import KeyRepository
from moorage_registry.rings.models import Ring, RingSpec
from moorage_registry.rings.repository import RingRepository
from moorage_registry.rings.tables import RingRow
from moorage_registry.tenants.repository import TenantRepository
from moorage_registry.work import Work

RINGS_MAX = 64
RING_BYTES = 64 * 1024
"""Of a ring's members in all: routers get them with the route of every model that uses the ring."""
_NAMED_MAX = 5


def no_ring(name: str) -> NotFound:
    return NotFound(f"there is no ring {name}; PUT /v1/rings/{name} makes it", code="ring_not_found")


def _told(row: RingRow, users: Sequence[str]) -> Ring:
    return Ring(
        name=row.name,
        header=row.header,
        values=row.values,
        kids=row.kids,
        used_by=list(users),
        updated_at=row.updated_at,
    )


@dataclass(frozen=True)
class RingReader:
    """What a tenant's rings are."""

    session: AsyncSession
    tenant: TenantId

    async def get(self, name: str) -> Ring:
        """Raises NotFound."""
        rows = RingRepository(self.session)
        row = await rows.get(self.tenant, name)
        if row is None:
            raise no_ring(name)
        return _told(row, (await rows.users(self.tenant)).get(name, []))

    async def all(self) -> list[Ring]:
        rows = RingRepository(self.session)
        users = await rows.users(self.tenant)
        return [_told(row, users.get(row.name, [])) for row in await rows.all(self.tenant)]


@dataclass(frozen=True)
class RingService:
    """Changes the rings of the tenant that `work` is for.

    Who changes a ring, or has traffic use one, holds the tenant's row: a ring in use is never deleted meanwhile.
    """

    work: Work

    async def put(self, name: str, spec: RingSpec) -> Ring:
        """Make the ring what `spec` says, and publish the routes that use it. Raises Unprocessable."""
        work = self.work
        await TenantRepository(work.session).get(work.tenant, lock=True)
        rows = RingRepository(work.session)
        values, kids = sorted(set(spec.values)), sorted(set(spec.kids))
        await self._check(values, kids)
        row = await rows.get(work.tenant, name)
        if row is None:
            if await rows.count(work.tenant) >= RINGS_MAX:
                message = f"this tenant has {RINGS_MAX} rings, the most there can be; delete one that nobody uses"
                raise Unprocessable(message, code="too_many_rings")
            row = RingRow(name=name, header="", values=[], kids=[], version=0, updated_at=work.now)
            await rows.add(work.tenant, row)
        users = (await rows.users(work.tenant)).get(name, [])
        if (row.header, row.values, row.kids) != (spec.header, values, kids):
            row.header, row.values, row.kids, row.updated_at = spec.header, values, kids, work.now
            self._changed(row, members=len(values) + len(kids), models=users)
            await self._publish(users)
        return _told(row, users)

    async def delete(self, name: str) -> None:
        """Raises NotFound; Conflict while traffic or a running rollout names it."""
        work = self.work
        await TenantRepository(work.session).get(work.tenant, lock=True)
        rows = RingRepository(work.session)
        row = await rows.get(work.tenant, name)
        if row is None:
            raise no_ring(name)
        users = (await rows.users(work.tenant)).get(name, [])
        if users:
            named = ", ".join(users[:_NAMED_MAX]) + (f" and {len(users) - _NAMED_MAX} more" if users[5:] else "")
            message = f"the traffic of {named} uses the ring {name}; take it out there first"
            raise Conflict(message, code="ring_in_use")
        self._changed(row, members=0, models=[], deleted=True)
        await rows.delete(work.tenant, row)

    async def _check(self, values: Sequence[str], kids: Sequence[str]) -> None:
        if sum(map(len, [*values, *kids])) > RING_BYTES:
            message = f"the ring's members are more than {RING_BYTES} characters in all; use fewer or shorter ones"
            raise Unprocessable(message, code="ring_too_large")
        if not kids:
            return
        own = {key.kid for key in await KeyRepository(self.work.session).all(self.work.tenant)}
        unknown = [kid for kid in kids if kid not in own]
        if unknown:
            named = ", ".join(unknown[:_NAMED_MAX])
            message = f"this tenant has no key {named}; `moorage keys list` shows the ids of yours"
            raise Unprocessable(message, code="ring_key_unknown")

    def _changed(self, row: RingRow, **data: Any) -> None:
        """Numbers of changes go on by the clock, so that a ring made anew has none of an earlier one's."""
        row.version = max(row.version + 1, int(self.work.now * 1e6))
        self.work.happened("ring.changed", f"rings/{row.name}", row.version, **data)

    async def _publish(self, models: Sequence[str]) -> None:
        """Other callers get the version from now on: routes, and what routers count, begin anew."""
        for model in models:
            owner = await CatalogRepository(self.work.session).model(self.work.tenant, model, lock=True)
            traffic = await DeploymentRepository(self.work.session).traffic(self.work.tenant, model)
            if owner is not None:
                traffic.revision += 1
                owner.revision += 1
                self.work.touch("model", model)
