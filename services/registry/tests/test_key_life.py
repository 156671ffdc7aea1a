"""A key's life: what it hands on, how it changes, is rotated and ends."""

from datetime import datetime
from typing import Any

import pytest

from moorage_common.contracts.keys import KeyRecord, KeyTables, Rate
from moorage_common.secrets import internal_token
from moorage_registry.keys.grants import Grant
from moorage_registry.keys.service import KeyService
from moorage_registry.testing import Caller, Json, Platform

BOUND: Json = {
    "scopes": ["keys:admin", "infer:fraud-*"],
    "cidrs": ["127.0.0.0/8"],
    "rate": {"requests_per_s": 10, "burst": 20},
    "expires_in_s": 3600,
}


@pytest.fixture
async def bound(demo: Caller) -> Caller:
    """A key with an end, networks and a rate of its own, that may make others."""
    made = await demo.ok("POST", "/v1/keys", json=BOUND)
    return Caller(demo.http, demo.tenant, made["key"])


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


async def own(caller: Caller) -> Json:
    kid = (await caller.ok("GET", "/v1/whoami"))["kid"]
    return dict(await caller.ok("GET", f"/v1/keys/{kid}"))


async def test_a_key_tells_all_of_itself_but_its_secret(demo: Caller) -> None:
    made = await demo.ok("POST", "/v1/keys", json={**BOUND, "name": " nightly "})
    text = made.pop("key")
    assert (made["name"], made["cidrs"], made["rate"]) == ("nightly", BOUND["cidrs"], BOUND["rate"])
    assert at(made["expires_at"]) - at(made["created_at"]) == pytest.approx(3600, abs=0.01)
    assert await demo.ok("GET", f"/v1/keys/{made['kid']}") == made
    assert made in (await demo.ok("GET", "/v1/keys"))["keys"]
    assert text[-20:] not in (await demo.call("GET", "/v1/audit")).text


async def test_what_a_new_key_leaves_open_is_its_makers(bound: Caller) -> None:
    made = await bound.ok("POST", "/v1/keys", json={"scopes": ["infer:fraud-eu"]})
    maker = await own(bound)
    assert {name: made[name] for name in ("cidrs", "rate", "expires_at")} == {
        name: maker[name] for name in ("cidrs", "rate", "expires_at")
    }


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"cidrs": ["126.0.0.0/7"]}, "network_not_held"),
        ({"cidrs": ["::1/128"]}, "network_not_held"),
        ({"rate": {"requests_per_s": 11, "burst": 20}}, "rate_not_held"),
        ({"rate": {"requests_per_s": 10, "burst": 21}}, "rate_not_held"),
        ({"expires_in_s": 3601}, "expiry_not_held"),
        ({"scopes": ["infer:*"]}, "scope_not_held"),
        ({"cidrs": ["10.0.0.1/8"]}, "invalid_request"),
        ({"rate": {"requests_per_s": 0, "burst": 1}}, "invalid_request"),
        ({"cidrs": ["127.0.0.1"], "rate": {"requests_per_s": 1, "burst": 1}, "expires_in_s": 9}, None),
    ],
)
async def test_a_key_hands_on_no_more_than_it_has(bound: Caller, more: Json, code: str | None) -> None:
    answer = await bound.call("POST", "/v1/keys", json={"scopes": ["infer:fraud-eu"], **more})
    assert answer.json().get("code") == code


async def test_a_bound_key_cannot_loosen_itself_or_rotate_a_freer_one(bound: Caller, demo: Caller) -> None:
    kid, freer = (await own(bound))["kid"], (await own(demo))["kid"]
    for change, code in (
        ({"cidrs": []}, "network_not_held"),
        ({"rate": None}, "rate_not_held"),
        ({"expires_in_s": 3700}, "expiry_later"),
    ):
        assert (await bound.call("PATCH", f"/v1/keys/{kid}", json=change)).json()["code"] == code
    answer = await bound.call("POST", f"/v1/keys/{freer}/rotate")
    assert (answer.status_code, answer.json()["code"]) == (403, "scope_not_held")


async def test_a_change_sets_what_is_given_and_raises_the_version(platform: Platform, bound: Caller) -> None:
    kid = (await own(bound))["kid"]
    change = {"name": "days", "cidrs": ["127.0.0.1"], "expires_in_s": 60}
    changed = await bound.ok("PATCH", f"/v1/keys/{kid}", json=change)
    assert (changed["name"], changed["cidrs"], changed["rate"]) == ("days", ["127.0.0.1/32"], BOUND["rate"])
    await bound.ok("PATCH", f"/v1/keys/{kid}", json={"name": "days"})
    published = (await platform.registry.publisher.all_keys())[kid]
    assert published.version == 2
    record = KeyRecord.model_validate(published.value)
    assert (record.cidrs, record.rate) == (["127.0.0.1/32"], Rate(requests_per_s=10, burst=20))
    assert record.expires_at == pytest.approx(at(changed["expires_at"]), abs=0.01)


async def test_a_key_is_refused_outside_its_networks(platform: Platform, demo: Caller) -> None:
    made = await demo.ok("POST", "/v1/keys", json={"scopes": ["keys:admin"], "cidrs": ["198.51.100.0/24"]})
    outside = Caller(demo.http, demo.tenant, made["key"])
    forged = {"x-forwarded-for": "198.51.100.7"}
    for headers in ({}, forged):
        answer = await outside.call("GET", "/v1/whoami", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "key_network")
        assert "127.0.0.1" in answer.json()["error"]


async def test_a_rotated_key_ends_after_the_overlap_and_names_its_successor(demo: Caller) -> None:
    old = await demo.ok("POST", "/v1/keys", json={**BOUND, "name": "ci", "environment": "test"})
    new = await demo.ok("POST", f"/v1/keys/{old['kid']}/rotate", json={"overlap_s": 600})
    for name in ("name", "scopes", "cidrs", "rate", "environment"):
        assert new[name] == old[name]
    assert new["key"].startswith("mrg_test_")
    assert at(new["expires_at"]) - at(new["created_at"]) == pytest.approx(3600, abs=0.01)
    held = await demo.ok("GET", f"/v1/keys/{old['kid']}")
    assert held["replaced_by"] == new["kid"]
    assert at(held["expires_at"]) - at(new["created_at"]) == pytest.approx(600, abs=0.01)
    for key in (old, new):
        await Caller(demo.http, demo.tenant, key["key"]).ok("GET", "/v1/whoami")
    again = await demo.call("POST", f"/v1/keys/{old['kid']}/rotate")
    assert (again.status_code, again.json()["code"]) == (409, "key_rotated")
    assert new["kid"] in again.json()["error"]


async def test_rotation_overlaps_by_a_day_unless_told_and_not_at_all_when_told(demo: Caller) -> None:
    old = await demo.ok("POST", "/v1/keys", json={"scopes": ["infer:*"]})
    await demo.ok("POST", f"/v1/keys/{old['kid']}/rotate")
    held = await demo.ok("GET", f"/v1/keys/{old['kid']}")
    assert at(held["expires_at"]) - at(old["created_at"]) == pytest.approx(86_400, abs=30)
    other = await demo.ok("POST", "/v1/keys", json={"scopes": ["infer:*"]})
    await demo.ok("POST", f"/v1/keys/{other['kid']}/rotate", json={"overlap_s": 0})
    answer = await Caller(demo.http, demo.tenant, other["key"]).call("GET", "/v1/whoami")
    assert answer.json()["code"] == "key_expired"


async def test_a_key_that_ended_is_neither_changed_nor_rotated(demo: Caller) -> None:
    made = await demo.ok("POST", "/v1/keys", json={"scopes": ["infer:*"]})
    await demo.ok("DELETE", f"/v1/keys/{made['kid']}")
    for method, path in (("PATCH", ""), ("POST", "/rotate")):
        answer = await demo.call(method, f"/v1/keys/{made['kid']}{path}", json={})
        assert (answer.status_code, answer.json()["code"]) == (409, "key_ended")


async def test_a_persons_session_key_is_published_as_theirs_and_makes_keys_that_outlast_it(
    platform: Platform, demo: Caller
) -> None:
    registry = platform.registry
    async with registry.works.begin(demo.tenant, "sign-in") as work:
        grant = Grant(("keys:admin", "infer:*"), expires_at=work.now + 8 * 3600)
        made = await KeyService(work, registry.pepper).mint(grant, subject="alice")
    assert made.subject == "alice"
    published = KeyRecord.model_validate((await registry.publisher.all_keys())[made.kid].value)
    assert (published.subject, published.expires_at) == ("alice", made.expires_at)
    session = Caller(demo.http, demo.tenant, made.key)
    lasting: Any = await session.ok("POST", "/v1/keys", json={"scopes": ["infer:*"]})
    assert (lasting["expires_at"], lasting["created_by"]) == (None, made.kid)
    answer = await session.call("POST", f"/v1/keys/{made.kid}/rotate")
    assert answer.json()["code"] == "session_key"


async def test_every_change_of_a_key_is_an_event_without_its_secret(demo: Caller) -> None:
    made = await demo.ok("POST", "/v1/keys", json=BOUND)
    await demo.ok("PATCH", f"/v1/keys/{made['kid']}", json={"name": "x"})
    new = await demo.ok("POST", f"/v1/keys/{made['kid']}/rotate")
    await demo.ok("DELETE", f"/v1/keys/{made['kid']}")
    events = (await demo.call("GET", "/v1/events?follow=false")).text
    for event in ("key.created", "key.changed", "key.rotated", "key.revoked"):
        assert event in events
    assert made["key"][-38:] not in events
    assert new["key"][-38:] not in events


def test_a_record_of_an_older_registry_is_read_as_unbound() -> None:
    record = KeyRecord.model_validate({"kid": "k", "tenant": "t", "digest": "d", "scopes": []})
    assert (record.cidrs, record.rate, record.subject) == ([], None, "")


async def test_moorages_own_processes_read_all_keys_and_limits_and_no_key_does(
    platform: Platform, demo: Caller
) -> None:
    gone = await demo.ok("POST", "/v1/keys", json={"scopes": ["infer:*"]})
    await demo.ok("DELETE", f"/v1/keys/{gone['kid']}")
    headers = {"authorization": f"Bearer {internal_token(platform.registry.pepper)}"}
    answer = await demo.http.get("/v1/internal/keys", headers=headers)
    tables = KeyTables.model_validate_json(answer.content)
    assert tables.keys == await platform.registry.publisher.all_keys()
    assert KeyRecord.model_validate(tables.keys[gone["kid"]].value).revoked
    assert tables.limits.keys() == {"platform", demo.tenant}
    for caller in (demo, platform.operator):
        refused = await caller.call("GET", "/v1/internal/keys")
        assert (refused.status_code, refused.json()["code"]) == (401, "internal_only")
