"""Sessions: a person's token becomes a key of 8 hours, with the scopes of the person's role in the tenant."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast, get_args

from moorage_common.contracts.names import TenantId
from moorage_common.contracts.roles import Role, scopes_of
from moorage_common.errors import Conflict, Forbidden
from moorage_registry.keys.grants import Grant
from moorage_registry.keys.service import PLATFORM, KeyService
from moorage_registry.keys.tables import KeyRow
from moorage_registry.people.models import CreatedSession
from moorage_registry.people.repository import PeopleRepository
from moorage_registry.people.tokens import Person
from moorage_registry.work import Work

SESSION_S = 8 * 3600.0
SESSIONS_MAX = 20
"""Good at once of a person in a tenant; one more ends the oldest."""


def role_of(text: str) -> Role:
    """A role as a row holds it. Raises ValueError for what is none."""
    if text not in get_args(Role):
        message = f"a membership has the role {text!r}"
        raise ValueError(message)
    return cast("Role", text)


def session_scopes(tenant: TenantId, role: Role) -> list[str]:
    return scopes_of(role, operators=tenant == PLATFORM)


def no_member(person: Person) -> Forbidden:
    message = (
        f"you are signed in, but no member there; ask an owner or administrator of the tenant to let you in: "
        f"moorage members set {person.subject} --role ROLE"
    )
    return Forbidden(message, code="not_a_member")


def choose(person: Person, tenants: Sequence[tuple[str, str]], wanted: str | None) -> TenantId:
    """The tenant to sign in to, of (name, status) of those that the person is a member of.

    Raises:
        Forbidden: not a member of the one wanted, or of any; or it is suspended. A tenant that there is none of, or
            that is being deleted, is refused like one that the person is no member of.
        Conflict: none named, and there are several.
    """
    there = {name: status for name, status in tenants if status in ("active", "suspended")}
    if wanted is None and len(there) > 1:
        message = f"you are a member of several tenants; name one with --tenant: {', '.join(there)}"
        raise Conflict(message, code="tenant_not_named")
    name = wanted if wanted is not None else next(iter(there), None)
    if name is None or name not in there:
        raise no_member(person)
    if there[name] == "suspended":
        raise Forbidden("this tenant is suspended; ask the platform's operator", code="tenant_suspended")
    return TenantId(name)


@dataclass(frozen=True)
class SessionService:
    """Sessions in the tenant that `work` is for."""

    work: Work
    pepper: str

    async def start(self, person: Person) -> CreatedSession:
        """Raises Forbidden where the person is no member."""
        people, tenant, now = PeopleRepository(self.work.session), self.work.tenant, self.work.now
        # Locked: a change of the role either is seen here, or sees the session made here.
        member = await people.get(tenant, person.subject, lock=True)
        if member is None:
            raise no_member(person)
        if not member.name:
            member.name = person.name
        live = await people.sessions(tenant, person.subject, now)
        for oldest in live[: max(0, len(live) - SESSIONS_MAX + 1)]:
            end(self.work, oldest)
        role = role_of(member.role)
        grant = Grant(tuple(session_scopes(tenant, role)), expires_at=now + SESSION_S)
        made = await KeyService(self.work, self.pepper).mint(grant, subject=person.subject)
        return CreatedSession(
            key=made.key, kid=made.kid, tenant=tenant, subject=person.subject, name=member.name, role=role,
            scopes=made.scopes, expires_at=now + SESSION_S,
        )  # fmt: skip


def end(work: Work, row: KeyRow) -> None:
    """Refuse the session's key from now on."""
    row.revoked_at = work.now
    row.version += 1
    work.touch("key", row.kid)
    work.happened("key.revoked", f"keys/{row.kid}", row.version, kid=row.kid, subject=row.subject)
