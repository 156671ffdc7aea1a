"""/v1/identity, /v1/sessions and /v1/members."""

from typing import Annotated

from fastapi import APIRouter

from moorage_common.contracts.names import TenantId
from moorage_common.errors import Conflict, NotFound
from moorage_registry.access import ANY_KEY, anyone, require
from moorage_registry.deps import RegistryDep
from moorage_registry.keys.repository import KeyRepository
from moorage_registry.keys.service import KeyService, Principal
from moorage_registry.people.models import CreatedSession, Identity, Member, MemberList, NewMember, NewSession, Subject
from moorage_registry.people.repository import PeopleRepository
from moorage_registry.people.service import MemberService, member_of, no_membership
from moorage_registry.people.sessions import SessionService, choose

router = APIRouter()

KeysAdmin = Annotated[Principal, require("keys:admin")]


@router.get("/identity", dependencies=[anyone()])
async def identity(registry: RegistryDep) -> Identity:
    if registry.issuer is None:
        return Identity(identity="none", router=registry.settings.router_url)
    expected = registry.issuer.expected
    return Identity(
        identity=registry.settings.identity,
        issuer=expected.issuer,
        client_id=expected.client_id,
        token=expected.taken,
        router=registry.settings.router_url,
    )


@router.post("/sessions", status_code=201, dependencies=[anyone()])
async def start_session(body: NewSession, registry: RegistryDep) -> CreatedSession:
    if registry.issuer is None:
        message = "people do not sign in on this platform; use an API key: moorage login"
        raise NotFound(message, code="no_identity_provider")
    person = await registry.issuer.person(body.token)
    async with registry.db.read() as session:
        tenants = await PeopleRepository(session).tenants_of(person.subject)
    tenant = choose(person, tenants, body.tenant)
    async with registry.works.begin(tenant, person.subject) as work:
        return await SessionService(work, registry.pepper).start(person)


@router.delete("/sessions/current", status_code=204)
async def end_session(principal: Annotated[Principal, require(ANY_KEY)], registry: RegistryDep) -> None:
    if not principal.subject:
        message = "this is an API key and no session; revoke it with: moorage keys revoke KID"
        raise Conflict(message, code="not_a_session")
    async with registry.db.read() as session:
        found = await KeyRepository(session).bearer(principal.kid)
    # The session's own tenant: who acts for another one signs out all the same.
    home = TenantId(found[0].tenant) if found is not None else principal.tenant
    async with registry.works.begin(home, principal.kid) as work:
        await KeyService(work, registry.pepper).revoke(principal.kid)


@router.get("/members")
async def list_members(principal: KeysAdmin, registry: RegistryDep) -> MemberList:
    async with registry.db.read() as session:
        return MemberList(members=[member_of(row) for row in await PeopleRepository(session).all(principal.tenant)])


@router.get("/members/{subject}")
async def get_member(subject: Subject, principal: KeysAdmin, registry: RegistryDep) -> Member:
    async with registry.db.read() as session:
        row = await PeopleRepository(session).get(principal.tenant, subject)
    if row is None:
        raise no_membership(subject)
    return member_of(row)


@router.put("/members/{subject}")
async def put_member(subject: Subject, body: NewMember, principal: KeysAdmin, registry: RegistryDep) -> Member:
    async with registry.work(principal) as work:
        return await MemberService(work, principal).put(subject, body)


@router.delete("/members/{subject}", status_code=204)
async def remove_member(subject: Subject, principal: KeysAdmin, registry: RegistryDep) -> None:
    async with registry.work(principal) as work:
        await MemberService(work, principal).remove(subject)
