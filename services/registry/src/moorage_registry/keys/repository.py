"""Rows of API keys."""

from collections.abc import Mapping, Sequence

from sqlalchemy import BindParameter, bindparam, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from moorage_common.contracts.names import TenantId
from moorage_registry.keys.tables import KeyRow
from moorage_registry.tenants.tables import TenantRow

USED_EACH_S = 60.0
"""How exactly it is known when a key was last used."""


class KeyRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, tenant: TenantId, row: KeyRow) -> None:
        row.tenant = tenant
        self._session.add(row)
        await self._session.flush()

    async def get(self, tenant: TenantId, kid: str, *, lock: bool = False) -> KeyRow | None:
        query = select(KeyRow).where(KeyRow.tenant == tenant, KeyRow.kid == kid)
        return await self._session.scalar(query.with_for_update() if lock else query)

    async def all(self, tenant: TenantId) -> Sequence[KeyRow]:
        """Of the tenant, oldest first."""
        query = select(KeyRow).where(KeyRow.tenant == tenant).order_by(KeyRow.created_at, KeyRow.kid)
        return (await self._session.scalars(query)).all()

    async def made_by(self, tenant: TenantId, kid: str) -> Sequence[str]:
        """Kids of the tenant's keys that the key `kid` made and that are not revoked."""
        query = select(KeyRow.kid).where(KeyRow.tenant == tenant, KeyRow.created_by == kid, KeyRow.revoked_at.is_(None))
        return (await self._session.scalars(query.order_by(KeyRow.kid))).all()

    async def used(self, seen: Mapping[str, float]) -> None:
        """Note when keys were last used, by kid, unless a minute has not passed since what is noted."""
        kid: BindParameter[str] = bindparam("used_kid")
        at: BindParameter[float] = bindparam("used_at")
        stale = or_(KeyRow.last_used_at.is_(None), KeyRow.last_used_at <= at - USED_EACH_S)
        statement = update(KeyRow.__table__).where(KeyRow.kid == kid, stale).values(last_used_at=at)  # type: ignore[arg-type]
        # In the order of their ids, so that two registries never wait for each other.
        rows = [{"used_kid": one, "used_at": when} for one, when in sorted(seen.items())]
        await (await self._session.connection()).execute(statement, rows)

    async def bearer(self, kid: str) -> tuple[KeyRow, str] | None:
        """The key that says who its tenant is, with that tenant's status. The one look-up without a tenant."""
        query = select(KeyRow, TenantRow.status).join(TenantRow, TenantRow.name == KeyRow.tenant)
        found = (await self._session.execute(query.where(KeyRow.kid == kid))).one_or_none()
        return (found[0], found[1]) if found is not None else None

    async def published(self, since: float) -> Sequence[KeyRow]:
        """Keys of all tenants that were still good at `since` or later."""
        query = select(KeyRow).where(
            or_(KeyRow.revoked_at.is_(None), KeyRow.revoked_at > since),
            or_(KeyRow.expires_at.is_(None), KeyRow.expires_at > since),
        )
        return (await self._session.scalars(query)).all()
