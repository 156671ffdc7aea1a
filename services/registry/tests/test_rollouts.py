"""A rollout from its start to its end, by the batches that routers send."""

import asyncio
import time
from typing import Any

from sqlalchemy import select, update

from moorage_common.contracts.names import BUCKET_ROUTES, route_key
from moorage_common.contracts.routes import Route
from moorage_common.contracts.versioned import Versioned
from moorage_registry.feedback.tables import LabelRow
from moorage_registry.rollouts.tables import RolloutEntryRow, RolloutRow, RolloutVerdictRow
from moorage_registry.rollouts.testing import PATH, QUICK, Router, Stage, both_ready, ready
from moorage_registry.testing import Caller, Platform, eventually

DEPLOYMENT = "/v1/deployments/digits"


def weights(traffic: Any) -> dict[int, int]:
    return {arm["version"]: arm["weight_bp"] for arm in traffic["arms"]}


async def test_a_version_that_is_no_worse_takes_the_place_of_the_one_before(stage: Stage, demo: Caller) -> None:
    rollout = await stage.start()
    assert (rollout["state"], rollout["stable"], rollout["candidate"], rollout["weight"]) == ("pending", 1, 2, 0)
    traffic = await demo.ok("GET", f"{DEPLOYMENT}/traffic")
    assert (weights(traffic), traffic["owner"]) == ({1: 10_000, 2: 0}, f"rollout:{rollout['id']}")
    await stage.report(*ready(1, 2), *ready(2, 1))
    async with stage.traffic(rollout):
        await stage.until("baking")
        await both_ready(stage)
        await stage.until("guarded")
        done = await stage.until("done")
    assert weights(await demo.ok("GET", f"{DEPLOYMENT}/traffic")) == {2: 10_000}
    kinds = await stage.kinds()
    assert [kind for kind in kinds if kind not in ("held", "resumed")] == [
        "started", "advanced", "advanced", "promoted", "done",
    ]  # fmt: skip
    assert (done["weight"], done["finished_at"] is not None, done["step"]) == (100, True, 2)
    replayed = await demo.ok("POST", f"{PATH}/{rollout['id']}/replay", json={})
    assert (replayed["same"], replayed["failures"]) == (True, [])
    await stage.let_leave(2)
    held = await demo.ok("GET", DEPLOYMENT)
    assert [(v["version"], v["scaling"]["max"]) for v in held["versions"]] == [(2, 4)]


async def test_a_version_that_fails_more_is_rolled_back_and_says_why(stage: Stage, demo: Caller) -> None:
    rollout = await stage.start()
    await both_ready(stage)
    async with stage.traffic(rollout, bad=0.3):
        await stage.until("rolled_back")
    assert weights(await demo.ok("GET", f"{DEPLOYMENT}/traffic")) == {1: 10_000}
    assert await stage.kinds() == ["started", "advanced", "rolled_back"]
    explained = await demo.ok("GET", f"{PATH}/current/explain")
    assert "All traffic is back on version 1" in explained["sentence"]
    replayed = await demo.ok("POST", f"{PATH}/{rollout['id']}/replay", json={})
    assert replayed["same"]
    assert [one["signal"] for one in replayed["failures"]] == ["errors"]
    lenient = {**QUICK, "errors": {"on": False}}
    assert (await demo.ok("POST", f"{PATH}/current/replay", json={"policy": lenient}))["failures"] == []
    await stage.let_leave(1)


async def test_what_fails_only_after_the_promotion_is_rolled_back_from_the_guard(stage: Stage, demo: Caller) -> None:
    rollout = await stage.start(guard={"for_s": 600, "holdback": 10})
    await both_ready(stage)
    async with stage.traffic(rollout) as router:
        guarded = await stage.until("guarded")
    assert guarded["weight"] == 90
    assert weights(await demo.ok("GET", f"{DEPLOYMENT}/traffic")) == {1: 1000, 2: 9000}
    async with stage.traffic(rollout, bad=0.5, router=router):
        await stage.until("rolled_back")
    assert weights(await demo.ok("GET", f"{DEPLOYMENT}/traffic")) == {1: 10_000}
    assert (await demo.ok("POST", f"{PATH}/current/replay", json={}))["same"]


async def test_without_evidence_a_step_holds_says_what_is_missing_and_goes_on_with_it(stage: Stage) -> None:
    steps = [{"weight": 20, "at_least_s": 0, "at_most_s": 1}]
    rollout = await stage.start(steps=steps)
    await both_ready(stage)
    router = Router()
    await stage.send(rollout, router, (0, 0), (500, 0))
    await stage.until("baking")
    await stage.send(rollout, router, (20, 0), (80, 0))
    held = await stage.until("hold")
    assert "20 requests of the candidate at 20 %" in held["reason"]
    assert held["needed"], held["reason"]
    async with stage.traffic(rollout, router=router):
        await stage.until("guarded", "done")
    assert (await stage.kinds())[:3] == ["started", "advanced", "held"]


async def test_predictions_of_another_kind_hold_the_rollout_and_alert_before_anybody_is_hurt(
    stage: Stage, demo: Caller
) -> None:
    rollout = await stage.start(drift={"on": True}, steps=[{"weight": 50, "at_least_s": 600}])
    await both_ready(stage)
    router = Router()
    for _ in range(5):
        await stage.send(rollout, router, (0, 0), (100, 0))
    await stage.until("baking")
    drifted = {
        "version": 2,
        "hosts": [{"host": "h2", "requests": 100}],
        "predictions": {"classes": {"cat": 30, "dog": 70}},
    }
    for _ in range(20):
        await stage.send(rollout, router, (0, 0), (100, 0), candidate=drifted)
    held = await stage.until("hold")
    found = await demo.ok("GET", f"{PATH}/current/verdicts")
    last = found["verdicts"][-1]
    assert (last["kind"], last["detail"]["signal"]) == ("held", "drift")
    otherwise = "The candidate predicts otherwise: 70 % of its"
    assert last["sentence"].startswith(otherwise)
    assert held["reason"].startswith(otherwise), "its numbers go on with what comes"
    assert await stage.kinds() == ["started", "advanced", "held"]
    assert weights(await demo.ok("GET", f"{DEPLOYMENT}/traffic")) == {1: 5000, 2: 5000}
    assert (await demo.ok("POST", f"{PATH}/current/promote"))["state"] == "guarded", "a person may think otherwise"


async def test_batches_that_come_twice_or_of_other_versions_count_once_or_not_at_all(
    stage: Stage, platform: Platform, demo: Caller
) -> None:
    rollout = await stage.start()
    await both_ready(stage)
    router, other = Router(), Router("r2")
    first = await stage.send(rollout, router, (0, 0), (300, 3))
    await stage.publish(first)
    await stage.send(rollout, other, (0, 0), (100, 1))
    foreign = first.model_copy(update={"seq": 2, "candidate": first.candidate.model_copy(update={"version": 9})})
    await stage.publish(foreign)
    router.seq = 4
    await stage.send(rollout, router, (0, 0), (100, 0))
    await stage.publish(first)

    async def judged() -> Any:
        found = await stage.rollout()
        return found if found["evidence"].get("baseline_requests") == 500 else None

    assert (await eventually(judged))["seq"] >= 4
    await asyncio.sleep(0)
    log = (await demo.ok("GET", f"{PATH}/current/log"))["entries"]
    read = [(e["entry"]["batch"]["router"], e["entry"]["batch"]["seq"]) for e in log if e["kind"] == "batch"]
    assert read == [("r1", 1), ("r2", 1), ("r1", 5)]
    missing = platform.registry.metrics.rollouts.missing
    assert missing._value.get() == 3
    page = await demo.ok("GET", f"{PATH}/current/log", params={"limit": 2})
    assert (len(page["entries"]), page["next_after"]) == (2, 2)


async def test_routers_are_told_what_to_count_and_a_rollback_reaches_them_within_a_second(
    stage: Stage, demo: Caller
) -> None:
    seen: list[Route] = []

    async def follow() -> None:
        kv = await stage.bus.bucket(BUCKET_ROUTES)
        watcher = await kv.watch(route_key(demo.tenant, "digits"))
        while True:
            told = await watcher.updates(timeout=60)
            entry = Versioned.model_validate_json(told.value) if told is not None else None
            if entry is not None and entry.value is not None:
                seen.append(Route.model_validate(entry.value))

    task = asyncio.create_task(follow())
    try:
        policy = {"quality": {"paired_pct": 25}, "latency": {"on": False, "skip_first": 7}}
        rollout = await stage.start(**policy)
        await both_ready(stage)
        router = Router()
        await stage.send(rollout, router, (0, 0), (500, 0))
        await stage.until("baking")

        async def routed() -> bool:
            return bool(seen) and seen[-1].rollout is not None and [a.weight_bp for a in seen[-1].arms] == [8000, 2000]

        await eventually(routed)
        told = seen[-1].rollout
        assert told is not None
        assert (told.id, told.stable, told.candidate) == (rollout["id"], 1, 2)
        assert (told.paired_bp, told.skip_first) == (2500, 7)
        await stage.send(rollout, router, (100, 60), (400, 0))

        async def back() -> bool:
            return seen[-1].rollout is None and [(a.version, a.weight_bp) for a in seen[-1].arms] == [(1, 10_000)]

        await eventually(back, 5)
    finally:
        while not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=0.2)


async def test_a_verdict_that_was_changed_or_taken_away_is_found_out(stage: Stage, demo: Caller) -> None:
    rollout = await stage.start()
    await demo.ok("POST", f"{PATH}/current/abort")
    found = await demo.ok("GET", f"{PATH}/current/verdicts")
    assert found["intact"]
    assert found["verdicts"][1]["previous"] == found["verdicts"][0]["hash"]
    db = stage.db
    mine = RolloutVerdictRow.rollout == rollout["id"]

    async def intact() -> bool:
        return bool((await demo.ok("GET", f"{PATH}/current/verdicts"))["intact"])

    async with db.write() as session:
        await session.execute(update(RolloutVerdictRow).where(mine, RolloutVerdictRow.number == 1).values(at=1.0))
    assert not await intact()
    async with db.write() as session:
        at = found["verdicts"][0]
        detail = {**at["detail"], "sentence": "all was well"}
        row = await session.get_one(RolloutVerdictRow, (rollout["id"], 2))
        row.detail = detail
    assert not await intact()
    async with db.write() as session:
        rows = (await session.scalars(select(RolloutVerdictRow).where(mine))).all()
        for each in rows:
            await session.delete(each)
    assert not await intact()


async def test_labels_are_judged_in_the_order_they_settled(stage: Stage, demo: Caller) -> None:
    now = time.time()

    def label(number: int, version: int, wrong: bool, at: float, settled: int) -> LabelRow:
        return LabelRow(
            tenant=demo.tenant, ulid=f"u{number}", model="digits", version=version,
            answered_at=at, at=at, label="x", wrong=wrong, loss=None, other_version=None, other_wrong=None,
            other_loss=None, settled=settled,
        )  # fmt: skip

    async with stage.db.write() as session:
        session.add_all([label(1, 1, False, now - 3600, 1), label(2, 2, True, now - 3600, 2)])
    await stage.start(quality={"on": True})
    await both_ready(stage)

    async def read(count: int) -> Any:
        entries = (await demo.ok("GET", f"{PATH}/current/log"))["entries"]
        labels = [one for entry in entries if entry["kind"] == "labels" for one in entry["entry"]["labels"]]
        return [(one["version"], one["wrong"]) for one in labels] if len(labels) >= count else None

    assert await eventually(lambda: read(1)) == [(1, False)], "stable's from before; none of the candidate's"
    later = time.time()
    async with stage.db.write() as session:
        late = [label(4, 2, True, later, 4), label(3, 1, True, later, 3), label(5, 7, True, later, 5)]
        session.add_all([*late, label(6, 2, False, later, 0)])
    assert await eventually(lambda: read(3)) == [(1, False), (1, True), (2, True)]
    assert (await demo.ok("POST", f"{PATH}/current/replay", json={}))["same"]


async def test_what_a_rollout_saw_is_kept_for_thirty_days_and_its_verdicts_for_good(
    stage: Stage, platform: Platform, demo: Caller
) -> None:
    rollout = await stage.start()
    await demo.ok("POST", f"{PATH}/current/abort")
    registry = platform.registry
    mine = RolloutRow.id == rollout["id"]

    async def entries() -> int:
        async with registry.db.read() as session:
            query = select(RolloutEntryRow).where(RolloutEntryRow.rollout == rollout["id"])
            return len((await session.scalars(query)).all())

    await registry.rollouts.forget_old()
    assert await entries() == 1
    async with registry.db.write() as session:
        await session.execute(update(RolloutRow).where(mine).values(finished_at=registry.clock() - 31 * 86_400))
    await registry.rollouts.forget_old()
    assert await entries() == 0
    assert await stage.kinds() == ["started", "aborted"]
    gone = await demo.call("POST", f"{PATH}/current/replay", json={})
    assert (gone.status_code, gone.json()["code"]) == (409, "log_gone")
