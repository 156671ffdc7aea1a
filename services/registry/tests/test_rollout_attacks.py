"""What tenants and models that mean harm cannot do with rollouts: to others, to their quota, to what was decided."""

import asyncio
import json
from collections.abc import Awaitable
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.exc import IntegrityError

from moorage_common.errors import OverQuota
from moorage_registry.feedback.repository import FeedbackRepository
from moorage_registry.rollouts import chain
from moorage_registry.rollouts.replay import OF_A_TENANT, Replays
from moorage_registry.rollouts.repository import VERDICTS_A_PAGE
from moorage_registry.rollouts.sentences import SENTENCE_MOST
from moorage_registry.rollouts.tables import RolloutEntryRow, RolloutRow, RolloutVerdictRow
from moorage_registry.rollouts.testing import PATH, QUICK, Router, Stage, ready, replica
from moorage_registry.testing import Caller, Json, Platform, eventually

DEPLOYMENT = "/v1/deployments/digits"
CPU = 9000


def versions(first: tuple[int, int], second: tuple[int, int]) -> Json:
    """Thousandths of a core, and the most replicas, of versions 1 and 2."""
    both = enumerate((first, second), start=1)
    told = [
        {"version": number, "resources": {"cpu_milli": cpu}, "scaling": {"min": 1, "max": most}}
        for number, (cpu, most) in both
    ]
    return {"versions": told}


def grown(deployment: Json) -> int:
    """Thousandths of cores that it may come to."""
    return sum(one["scaling"]["max"] * one["resources"]["cpu_milli"] for one in deployment["versions"])


async def left(stage: Stage, rollout: Json) -> None:
    async def gone() -> bool:
        async with stage.db.read() as session:
            return (await session.get_one(RolloutRow, rollout["id"])).leaves_at is None

    await eventually(gone, 30)


async def put(demo: Caller, spec: Json) -> None:
    """Beside the traffic, which stays."""
    await demo.ok("PUT", DEPLOYMENT, json=spec)


@pytest.fixture
async def scarce(stage: Stage, platform: Platform, demo: Caller) -> Stage:
    await platform.operator.ok("PUT", f"/v1/tenants/{demo.tenant}/limits", json={"cpu_milli": CPU})
    return stage


async def test_a_version_that_won_takes_no_more_than_the_quota_though_stable_was_scaled_meanwhile(
    scarce: Stage, demo: Caller
) -> None:
    traffic = {"traffic": [{"version": 1, "weight": 100}]}
    await put(demo, versions((100, 1), (4000, 1)) | traffic)
    rollout = await scarce.start(guard={"for_s": 0, "holdback": 5})
    await put(demo, versions((100, 40), (4000, 1)))
    await scarce.report(*ready(1, 2), *ready(2, 2))
    await demo.ok("POST", f"{PATH}/current/promote")
    await scarce.until("done")
    await left(scarce, rollout)
    after = await demo.ok("GET", DEPLOYMENT)
    assert [one["version"] for one in after["versions"]] == [2]
    assert grown(after) <= CPU


async def test_a_version_that_lost_gets_back_no_more_than_the_quota_though_its_room_was_used_meanwhile(
    scarce: Stage, demo: Caller
) -> None:
    traffic = {"traffic": [{"version": 1, "weight": 100}]}
    await put(demo, versions((1000, 4), (1000, 4)) | traffic)
    rollout = await scarce.start()
    await put(demo, versions((1000, 8), (1000, 1)))
    await demo.ok("POST", f"{PATH}/current/abort")
    await left(scarce, rollout)
    assert grown(await demo.ok("GET", DEPLOYMENT)) <= CPU


async def test_what_a_model_says_of_its_failure_never_keeps_the_rollback_from_being_written(stage: Stage) -> None:
    await stage.start()
    reason = "cannot read \0 here\x1b[2J" + "x" * 100_000
    await stage.report(*ready(1, 2), replica(2, "c1", "failed", reason=reason))
    back = await stage.until("rolled_back", timeout_s=10)
    assert "cannot read \ufffd here\ufffd[2J" in back["reason"]
    assert len(back["reason"]) < SENTENCE_MOST + 100


async def test_a_rollout_that_cannot_be_read_leaves_other_tenants_alone_and_can_be_ended(
    stage: Stage, platform: Platform, demo: Caller
) -> None:
    other = Stage(stage.db, stage.bus, await platform.tenant())
    await other.push(b"one", b"two")
    await other.deploy()
    poisoned = await stage.start()
    async with stage.db.write() as session:
        session.add(RolloutEntryRow(rollout=poisoned["id"], seq=poisoned["seq"] + 1, at=0.0, kind="none", entry={}))
        mine = update(RolloutRow).where(RolloutRow.id == poisoned["id"])
        await session.execute(mine.values(seq=poisoned["seq"] + 1))
    rollout = await other.start()
    await other.report(*ready(1, 2), *ready(2, 2))
    async with other.traffic(rollout, bad=0.5):
        await other.until("rolled_back")
    assert (await demo.ok("POST", f"{PATH}/current/abort"))["state"] == "aborted"


async def test_a_log_without_end_is_read_while_others_go_on_and_nothing_that_came_meanwhile_is_left_out(
    stage: Stage, platform: Platform, demo: Caller
) -> None:
    controller = platform.registry.rollouts
    other = Stage(stage.db, stage.bus, await platform.tenant())
    await other.push(b"one", b"two")
    await other.deploy()
    long, router = await stage.start(), Router()

    async def send(batches: int) -> None:
        for _ in range(batches):
            await stage.send(long, router, (0, 0), (10, 0))

    async def seen(requests: int) -> bool:
        return bool((await stage.rollout())["evidence"].get("baseline_requests") == requests)

    await send(10)
    await eventually(lambda: seen(100))
    controller.long_log = 5
    async with controller._turn_of_long:  # for as long as its log may be
        controller._drop()
        rollout = await other.start()
        await other.report(*ready(1, 2), *ready(2, 2))
        await send(3)
        async with other.traffic(rollout, bad=0.5):
            await other.until("rolled_back")
        assert not await seen(130)
    await eventually(lambda: seen(130))
    await send(2)
    await eventually(lambda: seen(150))
    assert (await demo.ok("POST", f"{PATH}/current/replay", json={}))["same"]


async def test_the_last_verdict_cannot_be_changed_and_its_hash_made_to_fit(stage: Stage, demo: Caller) -> None:
    rollout = await stage.start()
    await demo.ok("POST", f"{PATH}/current/abort")
    async with stage.db.write() as session:
        row = await session.get_one(RolloutVerdictRow, (rollout["id"], 2))
        row.detail = {**row.detail, "sentence": "all was well"}
        row.hash = chain.link(row)
    assert not (await demo.ok("GET", f"{PATH}/current/verdicts"))["intact"]


async def test_verdicts_without_end_are_read_a_few_at_a_time_and_are_all_there(stage: Stage, demo: Caller) -> None:
    await stage.start()
    for _ in range(VERDICTS_A_PAGE):
        await demo.ok("POST", f"{PATH}/current/pause")
        await demo.ok("POST", f"{PATH}/current/resume")
    count = 1 + 2 * VERDICTS_A_PAGE
    found = await demo.ok("GET", f"{PATH}/current/verdicts?after={count - 3}&limit=2")
    assert found["intact"]
    assert [one["number"] for one in found["verdicts"]] == [count - 2, count - 1]
    explained = await demo.ok("GET", f"{PATH}/current/explain")
    assert [one["number"] for one in explained["verdicts"]] == list(range(count - 4, count + 1))
    assert (await demo.ok("POST", f"{PATH}/current/replay", json={}))["same"]


@pytest.mark.parametrize(
    "path",
    [
        f"{PATH}/current/log?after={2**63}",
        f"{PATH}/current/verdicts?after={10**30}",
        f"{PATH}/%00",
        f"{PATH}/%00/log",
        f"{PATH}/a%F0%9F%92%A9",
    ],
)
async def test_numbers_and_ids_that_no_database_holds_are_refused(stage: Stage, demo: Caller, path: str) -> None:
    assert (await demo.call("GET", path)).status_code == 422


@pytest.mark.parametrize(
    "part",
    [
        {"drift": {"low": float("nan")}},
        {"drift": {"high": float("inf")}},
        {"latency": {"alpha": 5e-324}},
        {"errors": {"least_bad": 10**30}},
        {"errors": {"least_requests": 10**30}},
        {"steps": [{"weight": 5, "ring": f"r{n}"} for n in range(9)]},
        {"steps": [{"weight": 5, "ring": "r" * 65}]},
    ],
)
async def test_a_policy_with_numbers_that_json_lacks_or_without_measure_is_refused(
    stage: Stage, demo: Caller, part: Json
) -> None:
    body = json.dumps({"to": 2, "policy": {**QUICK, **part}})
    headers = {"content-type": "application/json"}
    assert (await demo.call("POST", PATH, content=body, headers=headers)).status_code == 422
    spec = json.dumps({"versions": [{"version": 1}], "policy": {**QUICK, **part}})
    assert (await demo.call("PUT", DEPLOYMENT, content=spec, headers=headers)).status_code == 422


async def test_a_tolerance_of_labels_without_bound_is_refused(stage: Stage, demo: Caller) -> None:
    spec = '{"versions": [{"version": 1}], "feedback": {"tolerance": Infinity}}'
    headers = {"content-type": "application/json"}
    assert (await demo.call("PUT", DEPLOYMENT, content=spec, headers=headers)).status_code == 422


async def test_one_tenants_replays_do_not_keep_those_of_others_waiting_for_good(
    stage: Stage, platform: Platform, demo: Caller
) -> None:
    await stage.start()
    other = Stage(stage.db, stage.bus, await platform.tenant())
    await other.push(b"one", b"two")
    await other.deploy()
    await other.start()
    replays = Replays(stage.db)

    def ask(one: Stage) -> Awaitable[Any]:
        return replays.of(one.demo.tenant, one.model, "current", None)

    await replays._turn.acquire()
    waiting = [asyncio.ensure_future(ask(stage)) for _ in range(OF_A_TENANT)]
    await asyncio.sleep(0)
    with pytest.raises(OverQuota):
        await ask(stage)
    waiting.append(asyncio.ensure_future(ask(other)))
    replays._turn.release()
    assert all(one.same for one in await asyncio.gather(*waiting))
    assert (await ask(stage)).same


async def test_an_error_of_the_database_says_nothing_of_the_labels_that_were_to_be_written(platform: Platform) -> None:
    row = {
        "tenant": "t", "ulid": "u", "model": "m", "version": 1, "answered_at": 0.0, "at": 0.0,
        "label": "a secret diagnosis", "wrong": None, "loss": None, "other_version": None, "other_wrong": None,
        "other_loss": None, "settled": 0,
    }  # fmt: skip
    with pytest.raises(IntegrityError) as caught:
        async with platform.registry.db.write() as session:
            await FeedbackRepository(session).add_labels([row, row])
    assert "secret" not in str(caught.value)
