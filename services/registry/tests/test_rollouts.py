"""A rollout from its start to its end, by the batches that routers send."""

from typing import Any

import pytest

from moorage_common.bus import Bus
from moorage_registry.rollouts.testing import PATH, QUICK, Stage, ready
from moorage_registry.testing import Caller, Platform, eventually


@pytest.fixture
async def stage(platform: Platform, demo: Caller, bus: Bus) -> Stage:
    """Version 1 deployed with two replicas, version 2 pushed."""
    built = Stage(platform, bus, demo)
    await built.push(b"one", b"two")
    await built.deploy()
    return built


def weights(traffic: Any) -> dict[int, int]:
    return {arm["version"]: arm["weight_bp"] for arm in traffic["arms"]}


async def test_a_version_that_is_no_worse_takes_the_place_of_the_one_before(stage: Stage, demo: Caller) -> None:
    rollout = await stage.start()
    assert (rollout["state"], rollout["stable"], rollout["candidate"], rollout["weight"]) == ("pending", 1, 2, 0)
    traffic = await demo.ok("GET", "/v1/deployments/digits/traffic")
    assert (weights(traffic), traffic["owner"]) == ({1: 10_000, 2: 0}, f"rollout:{rollout['id']}")
    await stage.report(*ready(1, 2), *ready(2, 1))
    async with stage.traffic(rollout):
        await stage.until("baking")
        await stage.report(*ready(1, 2), *ready(2, 2))
        await stage.until("guarded")
        done = await stage.until("done")
    assert weights(await demo.ok("GET", "/v1/deployments/digits/traffic")) == {2: 10_000}
    assert await stage.kinds() == ["started", "advanced", "advanced", "promoted", "done"]
    assert (done["weight"], done["finished_at"] is not None, done["step"]) == (100, True, 2)
    replayed = await demo.ok("POST", f"{PATH}/{rollout['id']}/replay", json={})
    assert replayed["same"], replayed
    assert replayed["failures"] == []

    async def left() -> bool:
        held = await demo.ok("GET", "/v1/deployments/digits")
        return [(v["version"], v["scaling"]["max"]) for v in held["versions"]] == [(2, 4)]

    await eventually(left)


async def test_a_version_that_fails_more_is_rolled_back_and_says_why(stage: Stage, demo: Caller) -> None:
    rollout = await stage.start()
    await stage.report(*ready(1, 2), *ready(2, 1))
    async with stage.traffic(rollout, bad=0.3):
        await stage.until("rolled_back")
    assert weights(await demo.ok("GET", "/v1/deployments/digits/traffic")) == {1: 10_000}
    assert await stage.kinds() == ["started", "advanced", "rolled_back"]
    explained = await demo.ok("GET", f"{PATH}/current/explain")
    assert "All traffic is back on version 1" in explained["sentence"]
    replayed = await demo.ok("POST", f"{PATH}/{rollout['id']}/replay", json={})
    assert replayed["same"]
    assert [one["signal"] for one in replayed["failures"]] == ["errors"]
    lenient = {**QUICK, "errors": {"on": False}}
    assert (await demo.ok("POST", f"{PATH}/current/replay", json={"policy": lenient}))["failures"] == []
