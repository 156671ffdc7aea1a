"""Setting what tenants may do: plans, rates of models, requests a month, over HTTP."""

import time

import pytest

from moorage_common.contracts.quota import month_of
from moorage_common.contracts.usage import UsageChunk, UsageRow
from moorage_registry.tenants.models import LimitsChange, PlanDefaults
from moorage_registry.tenants.plans import begun, planned
from moorage_registry.testing import Caller, Json, Platform
from moorage_registry.usage.consumer import UsageConsumer


async def set_limits(platform: Platform, caller: Caller, **fields: object) -> Json:
    limits: Json = await platform.operator.ok("PUT", f"/v1/tenants/{caller.tenant}/limits", json=fields)
    return limits


async def own(caller: Caller) -> Json:
    (found,) = (await caller.ok("GET", "/v1/limits"))["tenants"]
    return dict(found)


async def test_a_new_tenant_has_the_plan_standard_and_its_weight(platform: Platform, demo: Caller) -> None:
    limits = (await own(demo))["limits"]
    assert (limits["plan"], limits["weight"], limits["requests_per_month"]) == ("standard", 4, None)


async def test_a_plan_brings_what_it_sets_and_what_is_given_beside_it_wins(platform: Platform, demo: Caller) -> None:
    assert (await set_limits(platform, demo, plan="premium"))["weight"] == 16
    changed = await set_limits(platform, demo, plan="free", weight=2.5)
    assert (changed["plan"], changed["weight"]) == ("free", 2.5)
    assert (await set_limits(platform, demo, burst=7))["weight"] == 2.5
    assert (await set_limits(platform, demo, plan="premium", weight=None))["weight"] == 16
    refused = await platform.operator.call("PUT", f"/v1/tenants/{demo.tenant}/limits", json={"plan": "gold"})
    assert (refused.status_code, refused.json()["code"]) == (422, "plan_unknown")
    assert "premium" in refused.text


async def test_a_months_limit_is_set_and_taken_away(platform: Platform, demo: Caller) -> None:
    assert (await set_limits(platform, demo, requests_per_month=1000))["requests_per_month"] == 1000
    assert (await set_limits(platform, demo, burst=9))["requests_per_month"] == 1000
    assert (await set_limits(platform, demo, requests_per_month=None))["requests_per_month"] is None


async def test_models_rates_are_replaced_as_a_whole_and_a_model_has_one(platform: Platform, demo: Caller) -> None:
    rates = [{"model": "m", "requests_per_s": 5, "burst": 10}, {"model": "n", "requests_per_s": 1, "burst": 1}]
    assert (await set_limits(platform, demo, model_rates=rates))["model_rates"] == rates
    assert (await own(demo))["limits"]["model_rates"] == rates
    assert (await set_limits(platform, demo, model_rates=[]))["model_rates"] == []
    body = {"model_rates": [rates[0], rates[0]]}
    refused = await platform.operator.call("PUT", f"/v1/tenants/{demo.tenant}/limits", json=body)
    assert (refused.status_code, refused.json()["code"]) == (422, "model_rate_twice")


@pytest.mark.parametrize(
    "body",
    [
        {"weight": 0}, {"weight": 1001}, {"requests_per_month": -1}, {"requests_per_month": 10**16}, {"plan": "A b"},
        {"model_rates": [{"model": "m", "requests_per_s": 0, "burst": 1}]},
        {"model_rates": [{"model": "M!", "requests_per_s": 1, "burst": 1}]},
        {"model_rates": [{"model": "m", "requests_per_s": 1, "burst": 0}]},
        {"model_rates": [{"model": "m", "requests_per_s": 1, "burst": 1, "rate": 2}]},
        {"requests_per_s": 0}, {"burst": 0}, {"max_concurrent": 0}, {"max_body_bytes": 1}, {"requests_a_month": 1},
    ],
)  # fmt: skip
async def test_a_limit_out_of_its_range_is_refused(platform: Platform, demo: Caller, body: Json) -> None:
    refused = await platform.operator.call("PUT", f"/v1/tenants/{demo.tenant}/limits", json=body)
    assert refused.status_code == 422


async def test_a_tenant_sees_its_own_limits_and_month_and_operators_see_everyones(
    platform: Platform, demo: Caller
) -> None:
    await set_limits(platform, demo, requests_per_month=1000)
    hour = int(time.time()) // 3600 * 3600
    row = UsageRow(tenant=demo.tenant, model="m", version=1, kid="k", hour=hour, requests=41, errors=5)
    registry = platform.registry
    consumer = UsageConsumer(registry.db, registry.status.bus, registry.clock, lambda _new, _seen, _boots: None)
    await consumer.take_in([UsageChunk(router="r", boot=demo.tenant, n=0, rows=[row])])
    month = (await own(demo))["month"]
    assert (month["month"], month["used"], month["limit"]) == (month_of(hour), 41, 1000)
    assert month["resets_at"].endswith("-01T00:00:00.000Z")
    other = await platform.tenant()
    assert [one["tenant"] for one in (await other.ok("GET", "/v1/limits"))["tenants"]] == [other.tenant]
    everyone = {one["tenant"] for one in (await platform.operator.ok("GET", "/v1/limits"))["tenants"]}
    assert {demo.tenant, other.tenant, "platform"} <= everyone


def test_a_plan_may_set_and_take_away_a_month_and_a_given_one_wins() -> None:
    plans = {"free": PlanDefaults(requests_per_month=100, burst=5), "open": PlanDefaults(requests_per_month=None)}
    assert planned(LimitsChange(plan="free"), plans).given() == {"plan": "free", "burst": 5, "requests_per_month": 100}
    assert planned(LimitsChange(plan="open"), plans).given() == {"plan": "open", "requests_per_month": None}
    assert planned(LimitsChange(plan="free", requests_per_month=None), plans).given()["requests_per_month"] is None
    assert planned(LimitsChange(burst=1), plans).given() == {"burst": 1}
    assert begun(LimitsChange(), plans).given() == {}
