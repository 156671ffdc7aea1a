"""Memberships: who has which role in a tenant. A change is in force on the person's live sessions at once."""

from dataclasses import dataclass
from urllib.parse import quote

from moorage_common.contracts.names import TenantId
from moorage_common.contracts.roles import Role, key_may_grant, may_grant
from moorage_common.errors import Conflict, Forbidden, NotFound
from moorage_registry.keys.service import Principal
from moorage_registry.people.models import Member, NewMember
from moorage_registry.people.repository import PeopleRepository
from moorage_registry.people.sessions import end, role_of, session_scopes
from moorage_registry.people.tables import MembershipRow
from moorage_registry.tenants.repository import TenantRepository
from moorage_registry.tenants.service import no_tenant
from moorage_registry.work import Work


def member_of(row: MembershipRow) -> Member:
    return Member.model_validate({name: getattr(row, name) for name in Member.model_fields})


def no_membership(subject: str) -> NotFound:
    return NotFound(f"{subject} is no member; list them with: moorage members list", code="member_not_found")


@dataclass(frozen=True)
class MemberService:
    """Members of the tenant that `work` is for; `by` is who changes them."""

    work: Work
    by: Principal

    async def put(self, subject: str, wanted: NewMember) -> Member:
        """Let the person in, or change the role.

        Raises Forbidden where the role, or the one that it takes the place of, is above the granter's own; Conflict
        where no owner would be left.
        """
        people, row = await self._locked(subject)
        held = role_of(row.role) if row is not None else None
        await self._check(people, held, wanted.role)
        now, tenant = self.work.now, self.work.tenant
        if row is None:
            row = MembershipRow(
                subject=subject, role=wanted.role, name=wanted.name or "", version=_next(now), created_at=now,
                created_by=self.work.actor,
            )  # fmt: skip
            await people.add(tenant, row)
        elif (wanted.role, wanted.name or row.name) == (held, row.name):
            return member_of(row)
        else:
            row.role, row.name, row.version = wanted.role, wanted.name or row.name, _next(now, row.version)
        scopes = session_scopes(tenant, wanted.role)
        for session in await people.sessions(tenant, subject, now):
            if session.scopes != scopes:
                session.scopes = scopes
                session.version += 1
                self.work.touch("key", session.kid)
        self.work.happened("membership.changed", _named(subject), row.version, subject=subject, role=wanted.role)
        return member_of(row)

    async def remove(self, subject: str) -> None:
        """End the membership and the person's sessions. Raises NotFound, and as `put` does."""
        people, row = await self._locked(subject)
        if row is None:
            raise no_membership(subject)
        await self._check(people, role_of(row.role), None)
        version = _next(self.work.now, row.version)
        await people.remove(row)
        for session in await people.sessions(self.work.tenant, subject, self.work.now):
            end(self.work, session)
        self.work.happened("membership.removed", _named(subject), version, subject=subject)

    async def _locked(self, subject: str) -> tuple[PeopleRepository, MembershipRow | None]:
        """Changes of a tenant's members wait for each other, so that two owners cannot remove one another."""
        people, tenant = PeopleRepository(self.work.session), self.work.tenant
        if await TenantRepository(self.work.session).get(tenant, lock=True) is None:
            raise no_tenant(tenant)
        return people, await people.get(tenant, subject, lock=True)

    async def _check(self, people: PeopleRepository, held: Role | None, wanted: Role | None) -> None:
        own = await granting_role(people, self.work.tenant, self.by)
        for role in (held, wanted):
            if role is None or (may_grant(own, role) if own is not None else key_may_grant(self.by.scopes, role)):
                continue
            message = f"giving, changing or taking the role {role} is not for {own or 'this key'}; ask an owner"
            raise Forbidden(message, code="role_above_own")
        if held == "owner" and wanted != "owner" and await people.owners(self.work.tenant) == 1:
            raise Conflict("a tenant keeps an owner; make another person owner first", code="last_owner")


async def granting_role(people: PeopleRepository, tenant: TenantId, by: Principal) -> Role | None:
    """As whom `by` lets others in: an operator as an owner, a person in the own role; None for an API key."""
    if by.is_admin:
        return "owner"
    row = await people.get(tenant, by.subject) if by.subject else None
    return role_of(row.role) if row is not None else None


def _next(now: float, held: int = 0) -> int:
    """A version that no membership of the person had before, removed ones included: milliseconds, and always more."""
    return max(held + 1, int(now * 1000))


def _named(subject: str) -> str:
    """A subject of an event is a path; what stands in it is the identity provider's choice."""
    return f"members/{quote(subject, safe='')}"
