"""Traffic besides weights: what it sticks to, rings, shadows; and rings themselves."""

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import update

from moorage_common.contracts.routes import Arm, Route
from moorage_registry.catalog.tables import VersionRow
from moorage_registry.deployments.shadows import shadows_of
from moorage_registry.deployments.states import ModelStates
from moorage_registry.deployments.tables import TrafficRow
from moorage_registry.deployments.views import route_of
from moorage_registry.testing import SIGNATURE, Caller, Json, Platform

PATH = "/v1/deployments/digits"
TRAFFIC = f"{PATH}/traffic"
HALVES: list[Json] = [{"version": 1, "weight": 50}, {"version": 2, "weight": 50}]
BY_USER = {"by": "header", "name": "X-User"}


async def deployed(demo: Caller, **more: object) -> Json:
    await demo.push("digits", b"one")
    await demo.push("digits", b"two")
    told: Json = await demo.ok("PUT", PATH, json={"versions": [{"version": 1}, {"version": 2}], **more})
    return told


async def own_kid(demo: Caller) -> str:
    return str((await demo.ok("GET", "/v1/whoami"))["kid"])


async def refused(demo: Caller, method: str, path: str, body: Json | None = None) -> tuple[int, str]:
    answer = await demo.call(method, path, **({"json": body} if body is not None else {}))
    return answer.status_code, answer.json()["code"]


async def route(platform: Platform, demo: Caller) -> Route:
    """What routers are told, were all versions ready."""
    async with platform.registry.db.write() as session:
        await session.execute(update(VersionRow).where(VersionRow.tenant == demo.tenant).values(state="ready"))
    async with platform.registry.db.read() as session:
        state = await ModelStates(session).one(demo.tenant, "digits")
    assert state is not None
    found = route_of(state, "default")
    assert found is not None
    return found


async def test_what_traffic_sticks_to_is_told_without_its_salt_and_stays_unless_it_is_named(
    platform: Platform, demo: Caller
) -> None:
    assert (await deployed(demo))["traffic"]["stickiness"] is None
    told = await demo.ok("PUT", TRAFFIC, json={"arms": HALVES, "stickiness": BY_USER})
    assert told["stickiness"] == {"by": "header", "name": "x-user"}
    sticky = (await route(platform, demo)).sticky
    assert sticky is not None
    assert (sticky.by, sticky.name, len(sticky.salt)) == ("header", "x-user", 16)
    moved = await demo.ok("PUT", TRAFFIC, json={"arms": [{"version": 1, "weight": 10}, {"version": 2, "weight": 90}]})
    assert moved["stickiness"] == told["stickiness"]
    again = await demo.ok("PUT", TRAFFIC, json={"arms": HALVES, "stickiness": BY_USER})
    assert (await route(platform, demo)).sticky == sticky, "the same keys stay where they are"
    assert again["stickiness"] == told["stickiness"]
    assert (await demo.ok("PUT", TRAFFIC, json={"arms": HALVES, "stickiness": None}))["stickiness"] is None
    assert (await route(platform, demo)).sticky is None


async def test_keys_are_drawn_anew_by_request_and_for_another_header(platform: Platform, demo: Caller) -> None:
    await deployed(demo, traffic=HALVES, stickiness=BY_USER)
    first = (await route(platform, demo)).sticky
    revision = (await demo.ok("GET", TRAFFIC))["revision"]
    body = {"arms": HALVES, "stickiness": {**BY_USER, "reshuffle": True}}
    assert (await demo.ok("PUT", TRAFFIC, json=body))["revision"] == revision + 1
    second = (await route(platform, demo)).sticky
    await demo.ok("PUT", TRAFFIC, json={"arms": HALVES, "stickiness": {"by": "header", "name": "x-account"}})
    third = (await route(platform, demo)).sticky
    assert first is not None
    assert second is not None
    assert third is not None
    assert len({first.salt, second.salt, third.salt}) == 3


async def test_a_deployment_says_it_all_and_applying_it_again_changes_nothing(demo: Caller) -> None:
    await demo.ok("PUT", "/v1/rings/beta", json={"kids": [await own_kid(demo)]})
    more = {
        "traffic": [{"version": 1, "weight": 100}, {"version": 2, "weight": 5, "role": "shadow"}],
        "stickiness": {"by": "entity", "name": "x"},
        "rings": [{"ring": "beta", "version": 2, "weight": 50}],
    }
    first = await deployed(demo, **more)
    assert first["traffic"]["rings"] == [{"ring": "beta", "version": 2, "weight_bp": 5000}]
    spec: Json = {"versions": [{"version": 1}, {"version": 2}], **more}
    assert await demo.ok("PUT", PATH, json=spec) == first
    assert await demo.ok("PUT", PATH, json={"versions": spec["versions"]}) == first
    found = await demo.ok("PUT", PATH, params={"dry_run": True}, json={**spec, "rings": [], "stickiness": BY_USER})
    assert {change["path"]: (change["from"], change["to"]) for change in found["changes"]} == {
        "rings": ({"beta": {"version": 2, "weight_bp": 5000}}, None),
        "stickiness.by": ("entity", "header"),
        "stickiness.name": ("x", "x-user"),
    }
    one: Json = {"versions": [{"version": 1}]}
    left = (await demo.ok("PUT", PATH, json=one))["traffic"]
    assert (left["rings"], [arm["version"] for arm in left["arms"]]) == ([], [1]), "without what is no longer held"


NONSENSE: list[tuple[Json, int, str]] = [
    ({"stickiness": {"by": "header", "name": "Authorization"}}, 422, "header_not_usable"),
    ({"stickiness": {"by": "header", "name": "moorage-tenant"}}, 422, "header_not_usable"),
    ({"stickiness": {"by": "header", "name": "x user"}}, 422, "header_not_usable"),
    ({"stickiness": {"by": "header", "name": "x" * 65}}, 422, "header_not_usable"),
    ({"stickiness": {"by": "header", "name": "x\r\ny"}}, 422, "header_not_usable"),
    ({"stickiness": {"by": "entity", "name": "account"}}, 422, "entity_not_an_input"),
    ({"stickiness": {"by": "cookie", "name": "x"}}, 422, "invalid_request"),
    ({"stickiness": {"by": "header", "name": "x-user", "salt": "mine"}}, 422, "invalid_request"),
    ({"rings": [{"ring": "gamma", "version": 2, "weight": 50}]}, 404, "ring_not_found"),
    ({"rings": [{"ring": "beta", "version": 7, "weight": 50}]}, 404, "version_not_found"),
    ({"rings": [{"ring": "beta", "version": 3, "weight": 50}]}, 422, "version_not_deployed"),
    ({"rings": [{"ring": "beta", "version": 2}]}, 422, "invalid_request"),
    ({"rings": [{"ring": "beta", "version": 2, "weight": 101}]}, 422, "invalid_request"),
    ({"rings": [{"ring": "beta", "version": v, "weight": 1} for v in (1, 2)]}, 422, "ring_named_twice"),
    ({"rings": [{"ring": f"r{n}", "version": 2, "weight": 1} for n in range(9)]}, 422, "invalid_request"),
    ({"rings": [{"ring": "../x", "version": 2, "weight": 1}]}, 422, "invalid_request"),
    ({"arms": [*HALVES, {"version": 2, "weight": 5, "role": "shadow"}]}, 422, "version_named_twice"),
    (
        {"arms": [{"version": 1, "weight": 100}, {"version": 2, "weight": 500, "role": "shadow"}]},
        422,
        "invalid_request",
    ),
]


async def test_traffic_that_makes_no_sense_is_refused_and_changes_nothing(demo: Caller) -> None:
    before = (await deployed(demo))["traffic"]
    await demo.push("digits", b"three")
    await demo.ok("PUT", "/v1/rings/beta", json={"kids": [await own_kid(demo)]})
    for body, status, code in NONSENSE:
        assert await refused(demo, "PUT", TRAFFIC, {"arms": HALVES, **body}) == (status, code), body
    assert await demo.ok("GET", TRAFFIC) == before


async def test_an_entity_must_be_an_input_of_every_version_the_deployment_holds(demo: Caller) -> None:
    await deployed(demo, stickiness={"by": "entity", "name": "x"})
    other = {**SIGNATURE, "inputs": [{"name": "z", "datatype": "FP32", "shape": [-1, 4]}]}
    await demo.push("digits", b"three", signature=other)
    spec: Json = {"versions": [{"version": 1}, {"version": 3}]}
    assert await refused(demo, "PUT", PATH, spec) == (422, "entity_not_an_input")
    await demo.ok("PUT", PATH, json={**spec, "stickiness": None})


async def test_code_gets_copies_only_where_that_is_accepted(platform: Platform, demo: Caller) -> None:
    await platform.operator.ok("PUT", f"/v1/tenants/{demo.tenant}/limits", json={"allow_code": True})
    await deployed(demo)
    async with platform.registry.db.write() as session:
        code = update(VersionRow).where(VersionRow.tenant == demo.tenant, VersionRow.number == 2)
        await session.execute(code.values(format="ray-serve"))
    shadow: Json = {"version": 2, "weight": 5, "role": "shadow"}
    arms: list[Json] = [{"version": 1, "weight": 100}, shadow]
    assert await refused(demo, "PUT", TRAFFIC, {"arms": arms}) == (422, "shadow_of_code")
    told = await demo.ok("PUT", TRAFFIC, json={"arms": [arms[0], {**shadow, "copies_to_code": True}]})
    assert told["arms"][1]["copies_to_code"] is True


async def test_while_a_rollout_owns_the_traffic_nobody_changes_rings_or_what_it_sticks_to(
    platform: Platform, demo: Caller
) -> None:
    spec: Json = {"versions": [{"version": 1}, {"version": 2}]}
    await deployed(demo, stickiness=BY_USER)
    async with platform.registry.db.write() as session:
        await session.execute(update(TrafficRow).where(TrafficRow.tenant == demo.tenant).values(owner="rollout:r1"))
    for body in ({**spec, "rings": []}, {**spec, "stickiness": None}):
        assert await refused(demo, "PUT", PATH, body) == (409, "traffic_owned")
    assert await refused(demo, "PUT", TRAFFIC, {"arms": HALVES, "stickiness": None}) == (409, "traffic_owned")
    await demo.ok("PUT", PATH, json={**spec, "stickiness": BY_USER, "deadline_ms": 500})


async def test_what_became_of_copies_is_summed_over_routers(demo: Caller) -> None:
    shadow = {"version": 2, "weight": 5, "role": "shadow"}
    await deployed(demo, traffic=[{"version": 1, "weight": 100}, shadow])
    (told,) = (await demo.ok("GET", f"{PATH}/shadows"))["shadows"]
    assert (told["version"], told["weight_bp"], told["outcomes"], told["model_ms"]) == (2, 500, {}, None)
    families = [
        family for router in ("r1", "r2") for family in text_string_to_metric_families(SERIES.replace("ROUTER", router))
    ]
    arms = [Arm(arm="v2", version=2, weight_bp=500, role="shadow")]
    (found,) = shadows_of("digits", arms, families)
    assert found.outcomes == {"late": 2, "ok": 20}
    assert found.shed == {"busy": 6}
    assert (found.agreed, found.disagreed, found.not_compared) == (16, 4, 0)
    assert (found.model_ms, found.served_model_ms) == (pytest.approx(200), pytest.approx(100))


SERIES = """
# TYPE moorage_router_shadow_requests_total counter
moorage_router_shadow_requests_total{tenant="t",model="digits",version="2",outcome="ok",router="ROUTER"} 10.0
moorage_router_shadow_requests_total{tenant="t",model="digits",version="2",outcome="late",router="ROUTER"} 1.0
moorage_router_shadow_requests_total{tenant="t",model="other",version="3",outcome="ok",router="ROUTER"} 10.0
moorage_router_shadow_requests_total{tenant="t",model="digits",version="__overflow__",outcome="ok",router="ROUTER"} 1.0
# TYPE moorage_router_shadow_shed_total counter
moorage_router_shadow_shed_total{tenant="t",model="digits",version="2",reason="busy",router="ROUTER"} 3.0
# TYPE moorage_router_shadow_compared_total counter
moorage_router_shadow_compared_total{tenant="t",model="digits",version="2",agrees="yes",router="ROUTER"} 8.0
moorage_router_shadow_compared_total{tenant="t",model="digits",version="2",agrees="no",router="ROUTER"} 2.0
# TYPE moorage_router_shadow_seconds_total counter
moorage_router_shadow_seconds_total{tenant="t",model="digits",version="2",of="shadow",router="ROUTER"} 2.0
moorage_router_shadow_seconds_total{tenant="t",model="digits",version="2",of="served",router="ROUTER"} 1.0
"""


# -- rings


async def test_a_ring_is_told_as_it_was_given_with_who_uses_it(demo: Caller) -> None:
    kid = await own_kid(demo)
    await demo.ok("PUT", "/v1/rings/beta", json={"kids": [kid, kid]})
    told = await demo.ok("PUT", "/v1/rings/inside", json={"header": "X-Team", "values": ["ours", "a b", "ours"]})
    assert (told["header"], told["values"], told["kids"], told["used_by"]) == ("x-team", ["a b", "ours"], [], [])
    await deployed(demo, rings=[{"ring": "beta", "version": 1, "weight": 100}])
    found = (await demo.ok("GET", "/v1/rings"))["rings"]
    assert [(ring["name"], ring["kids"], ring["used_by"]) for ring in found] == [
        ("beta", [kid], ["digits"]), ("inside", [], []),
    ]  # fmt: skip


BAD_RINGS: list[tuple[Json, str]] = [
    ({}, "invalid_request"),
    ({"header": "x-a"}, "invalid_request"),
    ({"values": ["a"]}, "invalid_request"),
    ({"header": "x-a", "values": ["a"], "kids": ["k"]}, "invalid_request"),
    ({"header": "authorization", "values": ["a"]}, "invalid_request"),
    ({"header": "Cookie", "values": ["a"]}, "invalid_request"),
    ({"header": "moorage-arm", "values": ["a"]}, "invalid_request"),
    ({"header": "x a", "values": ["a"]}, "invalid_request"),
    ({"header": "x-a", "values": [""]}, "invalid_request"),
    ({"header": "x-a", "values": [" a"]}, "invalid_request"),
    ({"header": "x-a", "values": ["a\r\nb"]}, "invalid_request"),
    ({"header": "x-a", "values": ["\u00e9"]}, "invalid_request"),
    ({"header": "x-a", "values": ["a" * 129]}, "invalid_request"),
    ({"header": "x-a", "values": [f"{n}" for n in range(1001)]}, "invalid_request"),
    ({"header": "x-a", "values": [f"{n:0100}" for n in range(1000)]}, "ring_too_large"),
    ({"kids": ["../../keys"]}, "invalid_request"),
    ({"kids": ["A" * 12]}, "ring_key_unknown"),
]


async def test_a_ring_that_makes_no_sense_is_refused(demo: Caller) -> None:
    for body, code in BAD_RINGS:
        assert await refused(demo, "PUT", "/v1/rings/beta", body) == (422, code), body
    for name in ("Beta", "a_b", "-a", "x" * 64):
        assert (await demo.call("PUT", f"/v1/rings/{name}", json={"kids": ["k"]})).status_code in (404, 422), name
    assert (await demo.ok("GET", "/v1/rings"))["rings"] == []


async def test_a_ring_holds_keys_of_its_own_tenant_alone(platform: Platform, demo: Caller) -> None:
    stranger = await platform.tenant()
    theirs = {"kids": [await own_kid(stranger)]}
    assert await refused(demo, "PUT", "/v1/rings/beta", theirs) == (422, "ring_key_unknown")


async def test_a_tenant_has_so_many_rings_at_most(demo: Caller) -> None:
    body: Json = {"header": "x-a", "values": ["a"]}
    for number in range(64):
        await demo.ok("PUT", f"/v1/rings/r{number}", json=body)
    assert await refused(demo, "PUT", "/v1/rings/more", body) == (422, "too_many_rings")
    await demo.ok("PUT", "/v1/rings/r0", json={"header": "x-b", "values": ["a"]})
    await demo.ok("DELETE", "/v1/rings/r1")
    await demo.ok("PUT", "/v1/rings/more", json=body)


async def test_a_ring_in_use_is_not_deleted_and_the_refusal_names_where(demo: Caller) -> None:
    await demo.ok("PUT", "/v1/rings/beta", json={"header": "x-a", "values": ["a"]})
    await deployed(demo, rings=[{"ring": "beta", "version": 2, "weight": 50}])
    answer = await demo.call("DELETE", "/v1/rings/beta")
    assert (answer.status_code, answer.json()["code"]) == (409, "ring_in_use")
    assert "digits" in answer.json()["error"]
    await demo.ok("DELETE", PATH)
    await demo.ok("DELETE", "/v1/rings/beta")
    assert await refused(demo, "GET", "/v1/rings/beta") == (404, "ring_not_found")
    assert await refused(demo, "DELETE", "/v1/rings/beta") == (404, "ring_not_found")


async def test_a_changed_ring_is_published_with_every_route_that_uses_it(platform: Platform, demo: Caller) -> None:
    await demo.ok("PUT", "/v1/rings/beta", json={"header": "x-a", "values": ["a"]})
    await deployed(demo, rings=[{"ring": "beta", "version": 2, "weight": 50}])
    before = await route(platform, demo)
    assert [(r.name, r.header, r.values, r.version, r.weight_bp) for r in before.rings] == [
        ("beta", "x-a", ["a"], 2, 5000)
    ]
    await demo.ok("PUT", "/v1/rings/beta", json={"header": "x-a", "values": ["b", "a"]})
    after = await route(platform, demo)
    assert after.rings[0].values == ["a", "b"]
    assert after.revision == before.revision + 1
    await demo.ok("PUT", "/v1/rings/beta", json={"header": "x-a", "values": ["a", "b"]})
    assert (await route(platform, demo)).revision == after.revision, "nothing changed"


async def test_a_ring_deleted_and_made_again_is_told_of_each_time(demo: Caller) -> None:
    for _ in range(2):
        await demo.ok("PUT", "/v1/rings/beta", json={"header": "x-a", "values": ["a"]})
        await demo.ok("DELETE", "/v1/rings/beta")
    events = (await demo.call("GET", "/v1/events", params={"follow": False})).text
    assert events.count("event: ring.changed") == 4


@pytest.mark.parametrize("lacking", [1, 2])
async def test_a_ring_of_a_version_that_is_not_ready_goes_where_everybody_goes(
    platform: Platform, demo: Caller, lacking: int
) -> None:
    await demo.ok("PUT", "/v1/rings/beta", json={"header": "x-a", "values": ["a"]})
    await deployed(demo, traffic=HALVES, rings=[{"ring": "beta", "version": 2, "weight": 50}])
    await route(platform, demo)
    async with platform.registry.db.write() as session:
        mine = update(VersionRow).where(VersionRow.tenant == demo.tenant, VersionRow.number == lacking)
        await session.execute(mine.values(state="uploaded"))
    async with platform.registry.db.read() as session:
        state: Any = await ModelStates(session).one(demo.tenant, "digits")
    told = route_of(state, "default")
    assert told is not None
    assert [ring.version for ring in told.rings] == ([] if lacking == 2 else [2])
