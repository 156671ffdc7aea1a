"""Who may ask, for what, and what a refusal says."""

import asyncio
import time
from typing import Any

import httpx
import pytest
import redis

from moorage_common.contracts.features import FeatureServiceInfo, OnlineResponse
from moorage_common.secrets import internal_token
from moorage_feature_proxy.feast_protos import Registry, ValueType
from moorage_feature_proxy.values import encode_entities, key_prefix, project_of


def registry_of(project: str, views: int = 1, services: int = 1) -> bytes:
    """One view `v` (feature `a`, entity key `shop_id` of INT64) in the service `svc`, under as many names as asked."""
    registry = Registry()
    entity = registry.entities.add().spec
    entity.name, entity.project, entity.join_key, entity.value_type = "shop", project, "shop_id", ValueType.INT64
    view = registry.feature_views.add().spec
    view.name, view.project = "v", project
    view.entities.append("shop")
    for number in range(services):
        service = registry.feature_services.add().spec
        service.name, service.project = f"svc{number or ''}", project
        for alias in ("", *(f"v{place}" for place in range(1, views))):
            projection = service.features.add()
            projection.feature_view_name, projection.feature_view_name_alias = "v", alias
            column = projection.feature_columns.add()
            column.name, column.value_type = "a", ValueType.DOUBLE
    content: bytes = registry.SerializeToString()
    return content


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def as_bearer(text: str, **headers: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"} | headers


async def test_a_tenants_key_reads_its_own_feature_services_alone(proxy: Any) -> None:
    for tenant in ("acme", "globex"):
        assert (await proxy.put_definitions(tenant, registry_of(tenant))).status_code == 200
    await proxy.http.put(
        "/v1/features/definitions",
        content=registry_of("globex").replace(b"svc", b"own"),
        headers={"authorization": "Bearer x"},
    )
    mine = await proxy.http.get("/v1/features/services", headers=as_bearer(proxy.reader.text))
    assert [service["name"] for service in mine.json()["services"]] == ["svc"]
    one = await proxy.http.get("/v1/features/services/svc", headers=as_bearer(proxy.reader.text))
    assert FeatureServiceInfo.model_validate(one.json()).features == ["v__a"]


async def test_another_tenants_service_is_404(proxy: Any) -> None:
    await proxy.put_definitions("globex", registry_of("globex"))
    headers = as_bearer(proxy.reader.text)
    found = await proxy.http.get("/v1/features/services/svc", headers=headers)
    assert code(found) == (404, "feature_service_unknown")
    asked = {"service": "svc", "entities": {"shop_id": [1]}}
    assert code(await proxy.http.post("/v1/features/online", json=asked, headers=headers)) == (
        404, "feature_service_unknown",
    )  # fmt: skip


async def test_a_key_acts_for_no_other_tenant(proxy: Any) -> None:
    headers = as_bearer(proxy.reader.text, **{"moorage-tenant": "globex"})
    assert code(await proxy.http.get("/v1/features/services", headers=headers)) == (403, "other_tenant")


async def test_no_key_a_wrong_key_and_a_key_without_the_scope_are_refused(proxy: Any) -> None:
    get, put = "/v1/features/services", "/v1/features/definitions"
    assert code(await proxy.http.get(get)) == (401, "key_absent")
    assert code(await proxy.http.get(get, headers=as_bearer("mrg_live_nonsense"))) == (401, "key_malformed")
    assert code(await proxy.http.put(put, content=b"", headers=as_bearer(proxy.reader.text))) == (403, "scope_missing")
    assert code(await proxy.http.get(get, headers={"authorization": "Bearer ä".encode()})) == (401, "key_malformed")


async def test_the_internal_token_names_its_tenant(proxy: Any) -> None:
    await proxy.put_definitions("acme", registry_of("acme"))
    answer = await proxy.online("acme", "svc", shop_id=[1])
    assert OnlineResponse.model_validate(answer.json()).rows == 1
    for tenant in ("../acme", "", "Acme"):
        assert code(await proxy.online(tenant, "svc", shop_id=[1])) == (400, "tenant_absent")


async def test_a_key_made_while_the_proxy_runs_works_and_a_revoked_one_stops(proxy: Any) -> None:
    async def until(key: Any, status: int) -> None:
        deadline = time.monotonic() + 10
        while (await proxy.http.get("/v1/features/services", headers=as_bearer(key.text))).status_code != status:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)

    key = proxy.keys.new("acme", "features:read")
    entry = proxy.keys.entries[key.kid]
    await proxy.writer.put(key.kid, entry)
    await until(key, 200)
    revoked = entry.model_copy(update={"version": 2, "value": {**entry.value, "revoked": True}})
    proxy.keys.entries[key.kid] = revoked
    await proxy.writer.put(key.kid, revoked)
    await until(key, 401)


@pytest.mark.parametrize(
    ("entities", "wanted"),
    [
        ({"shop_id": ["1"]}, (400, "entity_type_mismatch")),
        ({"shop_id": [1.0]}, (400, "entity_type_mismatch")),
        ({"shop_id": [True]}, (400, "entity_type_mismatch")),
        ({"shop_id": [None]}, (400, "entity_type_mismatch")),
        ({"shop_id": [2**63]}, (400, "entity_type_mismatch")),
        ({"shop_id": [[1]]}, (400, "entity_type_mismatch")),
        ({}, (400, "entity_mismatch")),
        ({"shop_id": [1], "x": [1]}, (400, "entity_mismatch")),
        ({"shop_id": list(range(10_001))}, (400, "too_many_rows")),
        ({"shop_id": 1}, (422, "invalid_request")),
    ],
)
async def test_entities_that_do_not_fit_are_refused(proxy: Any, entities: Any, wanted: tuple[int, str]) -> None:
    await proxy.put_definitions("acme", registry_of("acme"))
    assert code(await proxy.online("acme", "svc", **entities)) == wanted


async def test_ten_thousand_rows_and_none_are_answered(proxy: Any) -> None:
    await proxy.put_definitions("acme", registry_of("acme"))
    for rows in (0, 1, 10_000):
        answer = (await proxy.online("acme", "svc", shop_id=list(range(rows)))).json()
        assert answer["rows"] == rows
        assert answer["columns"][0]["statuses"] == ["missing"] * rows


async def test_rows_of_a_service_of_many_views_are_bounded_by_what_is_read_and_told_how_many_fit(proxy: Any) -> None:
    await proxy.put_definitions("acme", registry_of("acme", views=200))
    assert (await proxy.online("acme", "svc", shop_id=list(range(500)))).json()["rows"] == 500
    refused = await proxy.online("acme", "svc", shop_id=list(range(501)))
    assert code(refused) == (400, "too_many_rows")
    assert "501 rows, and at most 500 " in refused.json()["error"]


async def test_other_tenants_are_answered_while_an_upload_is_parsed(proxy: Any) -> None:
    await proxy.put_definitions("acme", registry_of("acme"))
    upload = asyncio.create_task(proxy.put_definitions("globex", registry_of("globex", views=20, services=100)))
    answered = 0
    while not upload.done():
        assert (await proxy.online("acme", "svc", shop_id=[1])).status_code == 200
        answered += not upload.done()
    assert (await upload).status_code == 200
    assert answered > 1


async def test_bodies_are_bounded(proxy: Any) -> None:
    answer = await proxy.put_definitions("acme", b"x" * (8 * 1024 * 1024 + 1))
    assert code(answer) == (413, "too_large")


async def test_lookups_are_counted_by_tenant_and_service_and_never_by_a_callers_text(proxy: Any) -> None:
    await proxy.put_definitions("acme", registry_of("acme"))
    await proxy.online("acme", "svc", shop_id=[1, 2])
    await proxy.online("acme", "made-up", shop_id=[1])
    text = (await proxy.operations.get("/metrics")).text
    assert 'moorage_features_requests_total{code="200",service="svc",tenant="acme"} 1.0' in text
    assert 'moorage_features_requests_total{code="404",service="__unknown__",tenant="acme"} 1.0' in text
    assert 'moorage_features_rows_total{service="svc",tenant="acme"} 2.0' in text
    assert 'moorage_features_absent_values_total{service="svc",status="missing",tenant="acme"} 2.0' in text
    assert "made-up" not in text
    assert (await proxy.operations.get("/readyz")).status_code == 200


ACME = {"authorization": f"Bearer {internal_token('pepper of the tests')}", "moorage-tenant": "acme"}


def row_key(project: str, shop: int) -> bytes:
    return key_prefix(["shop_id"]) + encode_entities("shop_id", int(ValueType.INT64), [shop])[0] + project.encode()


async def test_a_forgotten_tenant_has_neither_definitions_nor_values_and_others_keep_theirs(
    proxy: Any, redis_url: str
) -> None:
    tenants = ("acme", "xacme", "globex")
    with redis.Redis.from_url(redis_url) as store:
        for tenant in tenants:
            await proxy.put_definitions(tenant, registry_of(tenant))
            for shop in range(2500):
                store.hset(row_key(tenant, shop), "f", "1")
        store.set("limits:acme", "not Feast's")
        cursor, removed = 0, 0
        while True:
            answer = await proxy.http.delete(f"/v1/features?cursor={cursor}", headers=ACME)
            assert answer.status_code == 200, answer.text
            cursor, removed = answer.json()["cursor"], removed + answer.json()["removed"]
            if cursor == 0:
                break
        assert removed == 2500
        held = [project_of(key) for key in store.scan_iter(count=1000)]
        assert (held.count(b"acme"), held.count(b"xacme"), held.count(b"globex")) == (0, 2500, 2500)
        assert store.exists("limits:acme")
    assert code(await proxy.online("acme", "svc", shop_id=[1])) == (404, "feature_service_unknown")
    assert (await proxy.online("xacme", "svc", shop_id=[1])).status_code == 200
    assert (await proxy.http.delete("/v1/features", headers=ACME)).json() == {
        "cursor": 0, "removed": 0,
    }  # fmt: skip


async def test_no_key_of_a_tenant_has_features_forgotten(proxy: Any) -> None:
    await proxy.put_definitions("acme", registry_of("acme"))
    key = proxy.keys.new("acme", "features:read", "features:write", "keys:admin", "platform:admin")
    await proxy.writer.put(key.kid, proxy.keys.entries[key.kid])
    answer = await proxy.http.delete("/v1/features", headers=as_bearer(proxy.reader.text))
    assert code(answer) == (403, "scope_missing")
    assert (await proxy.online("acme", "svc", shop_id=[1])).status_code == 200


async def test_a_key_bound_to_networks_is_refused_outside_of_them_unless_a_trusted_proxy_says_where_it_is(
    start_proxy: Any, redis_url: str
) -> None:
    for trusted, code in (([], "key_network"), (["127.0.0.0/8"], "")):
        async with start_proxy(redis_url, trusted_proxies=trusted) as proxy:
            key = proxy.keys.new("acme", "features:read", cidrs=["198.51.100.0/24"])
            await proxy.writer.put(key.kid, proxy.keys.entries[key.kid])
            headers = {"authorization": f"Bearer {key.text}", "x-forwarded-for": "198.51.100.7"}
            deadline = time.monotonic() + 10
            while (answer := await proxy.http.get("/v1/features/services", headers=headers)).status_code == 401:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)
            assert (answer.status_code, answer.json().get("code", "")) == (403 if code else 200, code)
