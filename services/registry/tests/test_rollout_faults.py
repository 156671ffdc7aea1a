"""What else a rollout meets: candidates that cannot run, no room, skewed features, a bus that is away."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import update

from moorage_common.bus import Bus
from moorage_common.contracts.desired import Desired
from moorage_common.contracts.names import BUCKET_DESIRED, desired_key
from moorage_common.contracts.versioned import Versioned
from moorage_common.testing.servers import Server, free_port
from moorage_registry.catalog.tables import VersionRow
from moorage_registry.rollouts.testing import PATH, Router, Stage, ready, replica
from moorage_registry.settings import Settings
from moorage_registry.testing import Caller, Platform, eventually, platform_of

DEPLOYMENT = "/v1/deployments/digits"


async def wanted(bus: Bus, demo: Caller) -> dict[int, tuple[int, int]]:
    """Minimum and maximum of replicas that the scheduler is asked for, by version."""
    entry = await (await bus.bucket(BUCKET_DESIRED)).get(desired_key("default", demo.tenant, "digits"))
    value = Versioned.model_validate_json(entry.value or b"").value
    desired = Desired.model_validate(value)
    return {one.load.version: (one.min_replicas, one.max_replicas) for one in desired.versions}


async def test_stable_keeps_what_it_has_and_the_candidate_gets_what_its_next_step_needs(
    stage: Stage, demo: Caller, bus: Bus
) -> None:
    spec = {"versions": [{"version": 1, "scaling": {"min": 0, "max": 4}}]}
    await demo.ok("PUT", DEPLOYMENT, json=spec)
    await stage.report(*ready(1, 4))
    rollout = await stage.start()

    async def asked(both: dict[int, tuple[int, int]]) -> bool:
        return await wanted(bus, demo) == both

    await eventually(lambda: asked({1: (4, 4), 2: (1, 4)}))
    await stage.report(*ready(1, 4), *ready(2, 1))
    router = Router()
    await stage.send(rollout, router, (0, 0), (500, 0))
    await stage.until("baking")
    await eventually(lambda: asked({1: (4, 4), 2: (2, 4)}))
    async with stage.traffic(rollout, router=router):

        async def short() -> Any:
            found = await stage.rollout()
            return found if "1 of the 2 replicas are ready" in found["reason"] else None

        assert (await eventually(short, 30))["state"] == "hold"
        await stage.report(*ready(1, 4), *ready(2, 2))
        await eventually(lambda: asked({1: (4, 4), 2: (4, 4)}), 30)
    await demo.ok("POST", f"{PATH}/current/abort")
    await stage.let_leave(1)
    await eventually(lambda: asked({1: (0, 4)}))


async def test_without_room_for_both_nothing_begins_and_the_scheduler_says_why(stage: Stage) -> None:
    await stage.start()
    queued = replica(2, "q1", "pending", reason="no GPU has 500 milli left")
    await stage.report(*ready(1, 2), queued)
    held = await stage.until("hold")
    assert "no GPU has 500 milli left" in held["reason"]
    assert held["weight"] == 0
    await stage.report(*ready(1, 2), *ready(2))
    await stage.until("pending")
    assert await stage.kinds() == ["started", "held", "resumed"]


async def test_a_step_waits_while_stable_could_not_take_all_traffic_back(stage: Stage) -> None:
    rollout = await stage.start()
    await stage.report(*ready(1, 2), *ready(2))
    await stage.send(rollout, Router(), (0, 0), (500, 0))
    await stage.until("baking")
    await stage.report(*ready(1, 1), *ready(2))
    assert "1 of 2 replicas of stable are ready" in (await stage.until("hold"))["reason"]
    await stage.report(*ready(1, 2), *ready(2))
    await stage.until("baking")


FAULTS: list[tuple[list[Any], str]] = [
    ([replica(2, "c1", "failed", reason="the artifact has another digest")], "the artifact has another digest"),
    ([replica(2, "c1", "loading", restarts=3, reason="its process died")], "3 restarts of its hosts"),
]


@pytest.mark.parametrize(("replicas", "said"), FAULTS)
async def test_a_candidate_that_cannot_run_is_rolled_back_at_once(stage: Stage, replicas: Any, said: str) -> None:
    await stage.start()
    await stage.report(*ready(1, 2), *replicas)
    back = await stage.until("rolled_back", timeout_s=10)
    assert said in back["reason"]
    assert back["reason"].endswith("All traffic is back on version 1")


async def test_crashes_of_a_candidate_that_has_traffic_roll_it_back_unless_stable_crashes_too(stage: Stage) -> None:
    rollout = await stage.start()
    await stage.report(*ready(1, 2), *ready(2))
    await stage.send(rollout, Router(), (0, 0), (500, 0))
    await stage.until("baking")
    await stage.report(*ready(1, 2, restarts=1), *ready(2, 1, restarts=3))
    await stage.send(rollout, Router("r2"), (1, 0), (9, 0))

    async def counted() -> bool:
        return bool((await stage.rollout())["evidence"]["candidate_requests"] == 1)

    await eventually(counted)
    assert (await stage.rollout())["state"] == "baking"


async def test_a_candidate_that_is_not_ready_in_time_is_rolled_back(stage: Stage) -> None:
    await stage.start(ready_within_s=1)
    await stage.report(*ready(1, 2), replica(2, "c1", "loading"))
    back = await stage.until("rolled_back")
    assert "0 of 1 replicas of the candidate are ready" in back["reason"]


async def test_a_failure_from_before_does_not_count_against_a_version_that_is_tried_again(stage: Stage) -> None:
    await stage.report(*ready(1, 2), replica(2, "old", "failed", reason="it failed last week"))
    await stage.start()
    await stage.report(*ready(1, 2), replica(2, "old", "failed", reason="it failed last week"), *ready(2))
    await stage.send(await stage.rollout(), Router(), (0, 0), (500, 0))
    assert (await stage.until("baking"))["weight"] == 20


async def test_a_version_may_be_rolled_out_before_it_is_validated_and_goes_back_when_it_is_rejected(
    stage: Stage,
) -> None:
    await stage.push(b"three", valid=False)
    started = await stage.start(to=3, ready_within_s=1)
    assert started["state"] == "pending"
    await stage.report(*ready(1, 2))
    await stage.settle(3, "rejected", "differs by 0.5")
    back = await stage.until("rolled_back")
    assert "rejected at validation: differs by 0.5" in back["reason"]


async def test_a_quota_with_room_for_one_replica_more_starts_the_candidate_with_one(
    stage: Stage, platform: Platform, demo: Caller
) -> None:
    await platform.operator.ok("PUT", f"/v1/tenants/{demo.tenant}/limits", json={"cpu_milli": 2000})
    await demo.ok("PUT", DEPLOYMENT, json={"versions": [{"version": 1, "resources": {"cpu_milli": 1000}}]})
    await stage.start(candidate_hosts=2)
    versions = (await demo.ok("GET", DEPLOYMENT))["versions"]
    assert [v["scaling"]["max"] for v in versions] == [1, 1]
    await demo.ok("POST", f"{PATH}/current/abort")
    await demo.ok("PUT", DEPLOYMENT, json={"versions": [{"version": 1, "resources": {"cpu_milli": 1500}}]})
    refused = await demo.call("POST", PATH, json={"to": 2})
    assert (refused.status_code, refused.json()["code"]) == (422, "cpu_quota")
    assert [v["version"] for v in (await demo.ok("GET", DEPLOYMENT))["versions"]] == [1]


@pytest.fixture
async def skewed(settings: Settings, feature_proxy: str, bus: Bus) -> AsyncIterator[Stage]:
    """Versions 1 and 2 that pinned the feature service as the proxy tells it."""
    changed = settings.model_copy(update={"feature_proxy_url": feature_proxy})
    async with platform_of(changed) as platform:
        stage = Stage(platform.registry.db, bus, await platform.tenant())
        for content in (b"one", b"two"):
            version = await stage.demo.push("digits", content, feature_service="readings")
            await stage.settle(version["version"], "passed")
        await stage.deploy(features={"entity": {"sensor_id": "x"}})
        yield stage


async def pin(stage: Stage, fingerprint: str) -> None:
    mine = (VersionRow.tenant == stage.demo.tenant) & (VersionRow.number == 2)
    async with stage.db.write() as session:
        await session.execute(update(VersionRow).where(mine).values(feature_fingerprint=fingerprint))


async def test_a_candidate_whose_features_have_changed_since_its_push_holds_at_nothing(skewed: Stage) -> None:
    await pin(skewed, "f0")
    rollout = await skewed.start()
    await skewed.report(*ready(1, 2), *ready(2))
    await skewed.send(rollout, Router(), (0, 0), (500, 0))

    async def told() -> Any:
        found = await skewed.rollout()
        return found if "readings has changed since version 2 was pushed" in found["reason"] else None

    held = await eventually(told)
    assert (held["state"], held["weight"]) == ("hold", 0)
    await pin(skewed, "f1")
    await skewed.until("baking")


async def test_a_feature_proxy_that_is_away_holds_too(settings: Settings, skewed: Stage, bus: Bus) -> None:
    """Another registry on the same database, which cannot reach the proxy."""
    await skewed.start()
    away = settings.model_copy(update={"feature_proxy_url": f"http://127.0.0.1:{free_port()}"})
    async with platform_of(away) as platform:
        gate = platform.registry.rollouts.looks.skew

        async def asked() -> str | None:
            fault = gate.fault(skewed.demo.tenant, 2, "readings", "f1")
            return fault if fault is not None and "has not been asked" not in fault else None

        assert "does not answer" in await eventually(asked)


async def test_while_the_bus_is_away_nothing_moves_and_it_goes_on_when_it_is_back(
    own_platform: Platform, own_nats: Server, own_bus: Bus
) -> None:
    demo = await own_platform.tenant()
    stage = Stage(own_platform.registry.db, own_bus, demo)
    await stage.push(b"one", b"two")
    await stage.deploy()
    steps = [{"weight": 20, "at_least_s": 4}]
    rollout = await stage.start(steps=steps)
    await stage.report(*ready(1, 2), *ready(2, 2))
    router = Router()
    await stage.send(rollout, router, (0, 0), (500, 0))
    await stage.until("baking")
    for _ in range(10):
        await stage.send(rollout, router, (100, 0), (400, 0))

    async def judged() -> bool:
        return bool((await stage.rollout())["evidence"]["candidate_requests"] == 1000)

    await eventually(judged)
    own_nats.kill()
    assert "NATS is away" in (await stage.until("hold"))["reason"]
    own_nats.start()
    await own_bus.wait(10)
    await stage.until("guarded", "done")

    async def sent() -> bool:
        await stage.send(rollout, router, (95, 0), (5, 0))
        return (await stage.rollout())["state"] == "done"

    await eventually(sent)
    assert (await demo.ok("POST", f"{PATH}/current/replay", json={}))["same"]
