"""Rows of memberships, and of the session keys that people hold by them."""

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from moorage_common.contracts.names import TenantId
from moorage_registry.keys.tables import KeyRow
from moorage_registry.people.tables import MembershipRow
from moorage_registry.tenants.tables import TenantRow


class PeopleRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, tenant: TenantId, row: MembershipRow) -> None:
        row.tenant = tenant
        self._session.add(row)
        await self._session.flush()

    async def get(self, tenant: TenantId, subject: str, *, lock: bool = False) -> MembershipRow | None:
        query = select(MembershipRow).where(MembershipRow.tenant == tenant, MembershipRow.subject == subject)
        return await self._session.scalar(query.with_for_update() if lock else query)

    async def all(self, tenant: TenantId) -> Sequence[MembershipRow]:
        """Of the tenant, longest there first."""
        query = select(MembershipRow).where(MembershipRow.tenant == tenant)
        return (await self._session.scalars(query.order_by(MembershipRow.created_at, MembershipRow.subject))).all()

    async def remove(self, row: MembershipRow) -> None:
        await self._session.delete(row)
        await self._session.flush()

    async def owners(self, tenant: TenantId) -> int:
        query = select(func.count()).where(MembershipRow.tenant == tenant, MembershipRow.role == "owner")
        return (await self._session.scalars(query)).one()

    async def tenants_of(self, subject: str) -> Sequence[tuple[str, str]]:
        """Names and status of the tenants that the person is a member of: the one look-up without a tenant."""
        query = (
            select(TenantRow.name, TenantRow.status)
            .join(MembershipRow, MembershipRow.tenant == TenantRow.name)
            .where(MembershipRow.subject == subject)
            .order_by(TenantRow.name)
        )
        return [(name, status) for name, status in await self._session.execute(query)]

    async def sessions(self, tenant: TenantId, subject: str, now: float) -> Sequence[KeyRow]:
        """The person's session keys that are still good, oldest first, locked."""
        query = (
            select(KeyRow)
            .where(KeyRow.tenant == tenant, KeyRow.subject == subject)
            .where(KeyRow.revoked_at.is_(None), KeyRow.expires_at > now)
            .order_by(KeyRow.created_at, KeyRow.kid)
        )
        return (await self._session.scalars(query.with_for_update())).all()
