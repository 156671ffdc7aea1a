"""People: signing in to a tenant, and what a membership is worth at each moment."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import nats.js.errors
import pytest

from moorage_common.bus import Bus
from moorage_common.contracts.events import event_subject
from moorage_common.contracts.keys import KeyRecord
from moorage_common.contracts.names import BUCKET_KEYS
from moorage_common.contracts.roles import ROLES, Role, scopes_of
from moorage_common.contracts.versioned import Versioned
from moorage_registry.people.sessions import SESSION_S, SESSIONS_MAX
from moorage_registry.people.testing import Provider, provider
from moorage_registry.settings import Settings
from moorage_registry.testing import Caller, Platform, eventually, platform_of


@pytest.fixture(scope="module")
def idp() -> Iterator[Provider]:
    with provider() as found:
        yield found


@pytest.fixture
async def platform(settings: Settings, idp: Provider) -> AsyncIterator[Platform]:
    changed = settings.model_copy(update={"identity": "oidc", "identity_issuer": idp.issuer})
    async with platform_of(changed) as running:
        yield running


class People:
    """Signs people in to one tenant."""

    def __init__(self, platform: Platform, tenant: Caller, idp: Provider) -> None:
        self.platform, self.tenant, self.idp = platform, tenant, idp

    async def let_in(self, subject: str, role: str) -> None:
        headers = {"moorage-tenant": str(self.tenant.tenant)}
        await self.platform.operator.ok("PUT", f"/v1/members/{subject}", json={"role": role}, headers=headers)

    async def ask(self, subject: str, tenant: str | None = None, **claims: Any) -> Any:
        body = {"token": self.idp.token(self.idp.claims(subject, **claims)), **({"tenant": tenant} if tenant else {})}
        return await self.platform.operator.http.post("/v1/sessions", json=body)

    async def put_out(self, subject: str) -> None:
        headers = {"moorage-tenant": str(self.tenant.tenant)}
        await self.platform.operator.ok("DELETE", f"/v1/members/{subject}", headers=headers)

    async def sign_in(self, subject: str) -> Caller:
        answer = await self.ask(subject, str(self.tenant.tenant))
        assert answer.status_code == 201, answer.text
        return Caller(self.platform.operator.http, self.tenant.tenant, answer.json()["key"])

    async def member(self, subject: str, role: str) -> Caller:
        await self.let_in(subject, role)
        return await self.sign_in(subject)


@pytest.fixture
def people(platform: Platform, demo: Caller, idp: Provider) -> People:
    return People(platform, demo, idp)


def told(answer: Any) -> tuple[int, str]:
    """Status and code of a refusal."""
    return answer.status_code, answer.json().get("code")


@pytest.mark.parametrize("role", ROLES)
async def test_who_signs_in_may_do_for_eight_hours_what_the_role_may(people: People, role: Role) -> None:
    await people.let_in("ada", role)
    answer = await people.ask("ada")
    session = answer.json()
    assert (answer.status_code, session["role"], session["scopes"]) == (201, role, scopes_of(role))
    caller = Caller(people.platform.operator.http, people.tenant.tenant, session["key"])
    who = await caller.ok("GET", "/v1/whoami")
    assert (who["tenant"], who["subject"], who["scopes"]) == (people.tenant.tenant, "ada", scopes_of(role))
    (row,) = [k for k in (await people.tenant.ok("GET", "/v1/keys"))["keys"] if k["kid"] == session["kid"]]
    assert row["expires_at"] == session["expires_at"]
    assert SESSION_S == 8 * 3600


async def test_a_session_is_published_to_routers_with_its_person_like_any_key(people: People, bus: Bus) -> None:
    session = await people.member("ada", "deployer")
    kid = (await session.ok("GET", "/v1/whoami"))["kid"]
    record = await eventually(lambda: _record(bus, kid))
    assert record.allows("infer", "digits")
    assert not record.revoked


async def _record(bus: Bus, kid: str) -> KeyRecord | None:
    try:
        entry = await (await bus.bucket(BUCKET_KEYS)).get(kid)
    except nats.js.errors.KeyNotFoundError:
        return None
    versioned = Versioned.model_validate_json(entry.value) if entry.value else None
    return KeyRecord.model_validate(versioned.value) if versioned is not None and versioned.value else None


async def test_only_members_sign_in_and_no_refusal_tells_which_tenants_there_are(people: People) -> None:
    stranger = await people.platform.tenant()
    for tenant in (None, str(stranger.tenant), "nosuchtenant"):
        answer = await people.ask("eve", tenant)
        assert told(answer) == (403, "not_a_member")
        assert "moorage members set eve" in answer.json()["error"]
    await people.let_in("ada", "viewer")
    assert told(await people.ask("ada", str(stranger.tenant))) == (403, "not_a_member")
    assert told(await people.ask("ada", "nosuchtenant")) == (403, "not_a_member")


async def test_who_is_a_member_of_several_tenants_names_one(people: People, idp: Provider) -> None:
    other = People(people.platform, await people.platform.tenant(), idp)
    await people.let_in("ada", "viewer")
    await other.let_in("ada", "owner")
    answer = await people.ask("ada")
    assert told(answer) == (409, "tenant_not_named")
    assert str(people.tenant.tenant) in answer.json()["error"]
    assert (await people.ask("ada", str(other.tenant.tenant))).json()["role"] == "owner"


async def test_nobody_signs_in_to_a_suspended_tenant(people: People) -> None:
    await people.let_in("ada", "owner")
    limits = f"/v1/tenants/{people.tenant.tenant}/limits"
    await people.platform.operator.ok("PUT", limits, json={"status": "suspended"})
    assert told(await people.ask("ada")) == (403, "tenant_suspended")


async def test_a_bad_token_signs_nobody_in(people: People) -> None:
    await people.let_in("ada", "owner")
    for claims in ({"iss": "https://elsewhere.example"}, {"aud": "account"}, {"exp": 1}):
        assert told(await people.ask("ada", **claims)) == (401, "token_refused")


async def test_a_changed_role_is_in_force_on_live_sessions_at_once(people: People) -> None:
    session = await people.member("ada", "admin")
    await session.ok("GET", "/v1/keys")
    await people.let_in("ada", "viewer")
    assert told(await session.call("GET", "/v1/keys")) == (403, "scope_missing")
    assert (await session.ok("GET", "/v1/whoami"))["scopes"] == scopes_of("viewer")
    await people.let_in("ada", "owner")
    assert (await session.ok("GET", "/v1/whoami"))["scopes"] == scopes_of("owner")


async def test_a_removed_member_is_refused_at_once_and_cannot_come_back(people: People) -> None:
    owner, session = await people.member("olga", "owner"), await people.member("ada", "deployer")
    await owner.ok("DELETE", "/v1/members/ada")
    assert told(await session.call("GET", "/v1/whoami")) == (401, "key_revoked")
    assert told(await people.ask("ada")) == (403, "not_a_member")
    assert told(await owner.call("DELETE", "/v1/members/ada")) == (404, "member_not_found")
    await people.let_in("ada", "viewer")
    assert told(await session.call("GET", "/v1/whoami")) == (401, "key_revoked")


async def test_a_change_reaches_routers_as_a_newer_record_and_a_removal_as_a_tombstone(
    people: People, bus: Bus
) -> None:
    session = await people.member("ada", "deployer")
    kid = (await session.ok("GET", "/v1/whoami"))["kid"]
    await people.let_in("ada", "viewer")

    async def cannot_infer() -> bool:
        record = await _record(bus, kid)
        return record is not None and not record.allows("infer", "digits")

    async def is_dead() -> bool:
        record = await _record(bus, kid)
        return record is not None and record.revoked

    assert await eventually(cannot_infer)
    await people.put_out("ada")
    assert await eventually(is_dead)


async def test_the_last_owner_stays_and_stays_owner(people: People) -> None:
    owner = await people.member("olga", "owner")
    for attempt in (owner, people.platform.operator):
        headers = {"headers": {"moorage-tenant": str(people.tenant.tenant)}} if attempt is not owner else {}
        assert told(await attempt.call("DELETE", "/v1/members/olga", **headers)) == (409, "last_owner")
        answer = await attempt.call("PUT", "/v1/members/olga", json={"role": "admin"}, **headers)
        assert told(answer) == (409, "last_owner")
    await owner.ok("PUT", "/v1/members/ada", json={"role": "owner"})
    await owner.ok("DELETE", "/v1/members/olga")
    assert [m["subject"] for m in (await people.tenant.ok("GET", "/v1/members"))["members"]] == ["ada"]


async def test_nobody_gives_or_takes_a_role_above_their_own(people: People) -> None:
    await people.let_in("olga", "owner")
    admin = await people.member("ada", "admin")
    assert told(await admin.call("PUT", "/v1/members/ada", json={"role": "owner"})) == (403, "role_above_own")
    assert told(await admin.call("PUT", "/v1/members/eve", json={"role": "owner"})) == (403, "role_above_own")
    assert told(await admin.call("PUT", "/v1/members/olga", json={"role": "viewer"})) == (403, "role_above_own")
    assert told(await admin.call("DELETE", "/v1/members/olga")) == (403, "role_above_own")
    for role in ("admin", "deployer", "viewer", "billing"):
        await admin.ok("PUT", "/v1/members/eve", json={"role": role})
    for role in ("deployer", "viewer", "billing"):
        weak = await people.member("walt", role)
        assert told(await weak.call("PUT", "/v1/members/walt", json={"role": "owner"})) == (403, "scope_missing")


async def test_an_api_key_lets_in_only_who_may_do_no_more_than_itself_and_never_an_owner(people: People) -> None:
    weak = await people.tenant.with_key("keys:admin", "usage:read")
    assert told(await weak.call("PUT", "/v1/members/eve", json={"role": "viewer"})) == (403, "role_above_own")
    await weak.ok("PUT", "/v1/members/eve", json={"role": "billing"})
    operator = {"moorage-tenant": str(people.tenant.tenant)}
    body = {"scopes": scopes_of("admin")}
    made = await people.platform.operator.ok("POST", "/v1/keys", json=body, headers=operator)
    strong = Caller(people.platform.operator.http, people.tenant.tenant, made["key"])
    await strong.ok("PUT", "/v1/members/eve", json={"role": "admin"})
    assert told(await strong.call("PUT", "/v1/members/eve", json={"role": "owner"})) == (403, "role_above_own")


async def test_who_signs_out_is_refused_afterwards_and_elsewhere_still_signed_in(people: People) -> None:
    one = await people.member("ada", "viewer")
    other = await people.sign_in("ada")
    await one.ok("DELETE", "/v1/sessions/current")
    assert told(await one.call("GET", "/v1/whoami")) == (401, "key_revoked")
    await other.ok("GET", "/v1/whoami")
    assert told(await people.tenant.call("DELETE", "/v1/sessions/current")) == (409, "not_a_session")


async def test_a_person_holds_so_many_sessions_and_the_oldest_ends(people: People) -> None:
    first = await people.member("ada", "viewer")
    for _ in range(SESSIONS_MAX - 1):
        last = await people.sign_in("ada")
    await first.ok("GET", "/v1/whoami")
    await people.sign_in("ada")
    assert told(await first.call("GET", "/v1/whoami")) == (401, "key_revoked")
    await last.ok("GET", "/v1/whoami")


async def test_members_of_another_tenant_do_not_exist(people: People, idp: Provider) -> None:
    await people.let_in("ada", "owner")
    other = People(people.platform, await people.platform.tenant(), idp)
    boss = await other.member("bob", "owner")
    assert [m["subject"] for m in (await boss.ok("GET", "/v1/members"))["members"]] == ["bob"]
    assert (await boss.call("GET", "/v1/members/ada")).status_code == 404
    assert (await boss.call("DELETE", "/v1/members/ada")).status_code == 404
    await boss.ok("PUT", "/v1/members/ada", json={"role": "viewer"})
    assert (await people.tenant.ok("GET", "/v1/members/ada"))["role"] == "owner"


async def test_an_owner_of_the_operators_tenant_runs_the_platform_and_no_other_member_does(people: People) -> None:
    operators = People(people.platform, people.platform.operator, people.idp)
    await operators.let_in("root", "owner")
    boss = await operators.sign_in("root")
    await boss.ok("GET", "/v1/tenants")
    acting = {"moorage-tenant": str(people.tenant.tenant)}
    await boss.ok("GET", "/v1/members", headers=acting)
    admin = await operators.member("ada", "admin")
    assert told(await admin.call("GET", "/v1/tenants")) == (403, "scope_missing")
    assert told(await admin.call("PUT", "/v1/members/ada", json={"role": "owner"})) == (403, "role_above_own")
    await boss.ok("DELETE", "/v1/sessions/current", headers=acting)
    assert told(await boss.call("GET", "/v1/whoami")) == (401, "key_revoked")


async def test_live_sessions_and_keys_outlive_the_provider(people: People) -> None:
    session = await people.member("ada", "owner")
    people.idp.is_away = True
    try:
        assert (await session.call("GET", "/v1/members")).status_code == 200
        assert (await people.tenant.call("GET", "/v1/whoami")).status_code == 200
        assert (await people.ask("ada")).status_code == 201
    finally:
        people.idp.is_away = False


async def test_what_happens_to_members_is_told_in_audit_and_events(people: People) -> None:
    await people.let_in("auth0|ada", "viewer")
    await people.let_in("auth0|ada", "viewer")
    await people.let_in("auth0|ada", "admin")
    await people.put_out("auth0|ada")
    entries = (await people.tenant.ok("GET", "/v1/audit"))["entries"]
    told = [e["action"] for e in entries if e["action"].startswith("membership.")]
    assert sorted(told) == ["membership.changed", "membership.changed", "membership.removed"]
    events = (await people.tenant.call("GET", "/v1/events?follow=false")).text
    assert events.count("membership.changed") >= 2


def test_no_subject_of_a_person_widens_what_an_event_is_published_as() -> None:
    from moorage_common.contracts.events import CloudEvent
    from moorage_registry.people.service import _named

    for subject in ("a.b", "*", ">", "a b", "auth0|x", "é"):
        event = CloudEvent(
            id="1", source="s", type="membership.changed", subject=_named(subject), time="t", tenant="t", data={}
        )
        parts = event_subject(event).split(".")
        assert len(parts) == 6
        assert not set("*> ") & set(event_subject(event)), subject


@pytest.mark.parametrize("subject", ["a b", "a%2Fb", "x" * 256, "%C3%A9"])
async def test_what_can_be_nobodys_subject_is_refused(people: People, subject: str) -> None:
    answer = await people.tenant.call("PUT", f"/v1/members/{subject}", json={"role": "viewer"})
    assert answer.status_code in (404, 422), answer.text


async def test_everybody_may_ask_how_to_sign_in(people: People) -> None:
    answer = await people.platform.operator.http.get("/v1/identity")
    assert answer.json() == {
        "identity": "oidc",
        "issuer": people.idp.issuer,
        "client_id": "moorage-cli",
        "token": "access_token",
        "router": "",
    }


async def test_without_a_provider_nobody_signs_in_and_keys_go_on(settings: Settings) -> None:
    assert settings.identity == "none"
    async with platform_of(settings) as platform:
        http = platform.operator.http
        assert (await http.get("/v1/identity")).json()["identity"] == "none"
        assert told(await http.post("/v1/sessions", json={"token": "x"})) == (404, "no_identity_provider")
        await platform.operator.ok("PUT", "/v1/members/ada", json={"role": "owner"})


def test_a_provider_without_an_issuer_is_refused_at_start(settings: Settings) -> None:
    with pytest.raises(ValueError, match="identity_issuer"):
        Settings.model_validate({**settings.model_dump(), "identity": "keycloak"})
