"""What people do to rollouts, what they are refused, and who may not see them."""

from typing import Any

import pytest
from sqlalchemy import select

from moorage_registry.audit.tables import AuditRow
from moorage_registry.rollouts.tables import RolloutRow
from moorage_registry.rollouts.testing import PATH, QUICK, Stage, both_ready
from moorage_registry.testing import Caller, Platform, eventually

DEPLOYMENT = "/v1/deployments/digits"


async def test_a_rollout_owns_the_traffic_until_it_is_aborted(stage: Stage, demo: Caller) -> None:
    await stage.start()
    arms = [{"version": 1, "weight": 100}]
    both: Any = {"versions": [{"version": 1}, {"version": 2}]}
    for method, path, body in (
        ("PUT", f"{DEPLOYMENT}/traffic", {"arms": arms}),
        ("PUT", DEPLOYMENT, {**both, "traffic": arms}),
        ("PUT", DEPLOYMENT, {"versions": [{"version": 1}]}),
        ("DELETE", DEPLOYMENT, None),
    ):
        answer = await demo.call(method, path, json=body)
        assert (answer.status_code, answer.json()["code"]) == (409, "traffic_owned")
        assert "moorage rollout abort digits" in answer.json()["error"]
    second = await demo.call("POST", PATH, json={"to": 2})
    assert (second.status_code, second.json()["code"]) == (409, "rollout_running")
    await demo.ok("PUT", DEPLOYMENT, json={**both, "deadline_ms": 500})
    aborted = await demo.ok("POST", f"{PATH}/current/abort")
    assert (aborted["state"], aborted["weight"]) == ("aborted", 0)
    assert await stage.kinds() == ["started", "aborted"]
    over = await demo.call("POST", f"{PATH}/{aborted['id']}/abort")
    assert (over.status_code, over.json()["code"]) == (409, "rollout_over")
    await demo.ok("PUT", f"{DEPLOYMENT}/traffic", json={"arms": arms})


async def test_who_says_what_is_deployed_after_a_rollout_has_the_last_word(stage: Stage, demo: Caller) -> None:
    await stage.start()
    await demo.ok("POST", f"{PATH}/current/abort")
    both: Any = {"versions": [{"version": 1}, {"version": 2}]}
    await demo.ok("PUT", DEPLOYMENT, json=both)
    async with stage.db.read() as session:
        (row,) = (await session.scalars(select(RolloutRow).where(RolloutRow.tenant == demo.tenant))).all()
    assert row.leaves_at is None
    await stage.start()
    assert (await stage.rollout())["state"] == "pending", "another one starts at once"
    await demo.ok("POST", f"{PATH}/current/abort")
    await stage.start()
    versions = (await demo.ok("GET", DEPLOYMENT))["versions"]
    assert [v["version"] for v in versions] == [1, 2]


async def test_people_pause_resume_promote_and_abort(stage: Stage, demo: Caller) -> None:
    rollout = await stage.start()
    early = await demo.call("POST", f"{PATH}/current/promote")
    assert (early.status_code, early.json()["code"]) == (409, "candidate_not_ready")
    paused = await demo.ok("POST", f"{PATH}/current/pause")
    assert paused["state"] == "paused"
    assert (await demo.call("POST", f"{PATH}/current/pause")).json()["code"] == "rollout_paused"
    await both_ready(stage)
    async with stage.traffic(rollout) as router:

        async def counted() -> bool:
            return bool((await stage.rollout())["evidence"].get("baseline_requests", 0) >= 2000)

        await eventually(counted)
        assert (await stage.rollout())["state"] == "paused"
        assert (await demo.ok("POST", f"{PATH}/current/resume"))["state"] == "pending"
        await stage.until("baking")
        assert (await demo.call("POST", f"{PATH}/current/resume")).json()["code"] == "rollout_not_paused"
        promoted = await demo.ok("POST", f"{PATH}/current/promote")
        assert (promoted["state"], promoted["weight"]) == ("guarded", 95)
        for order in ("promote", "pause"):
            again = await demo.call("POST", f"{PATH}/current/{order}")
            assert again.json()["code"] in ("rollout_promoted", "rollout_over")
        await stage.until("done")
    assert router.seq > 5
    assert [k for k in await stage.kinds() if k != "held"] == [
        "started", "paused", "resumed", "advanced", "promoted", "done",
    ]  # fmt: skip
    assert (await demo.ok("POST", f"{PATH}/current/replay", json={}))["same"]
    async with stage.db.read() as session:
        actors = await session.execute(
            select(AuditRow.action, AuditRow.actor).where(AuditRow.tenant == demo.tenant).order_by(AuditRow.id)
        )
        told = [(action, actor) for action, actor in actors if action.startswith("rollout.")]
    kid = (await demo.ok("GET", "/v1/whoami"))["kid"]
    assert [action for action, actor in told if actor == kid] == [
        "rollout.started", "rollout.paused", "rollout.resumed", "rollout.promoted",
    ]  # fmt: skip
    assert {actor for action, actor in told if action == "rollout.done"} == {"rollouts"}


REFUSED: list[tuple[Any, int, str]] = [
    ({"to": 1}, 422, "rollout_to_itself"),
    ({"to": 9}, 404, "version_not_found"),
    ({"to": 3}, 409, "version_rejected"),
    ({"to": 2, "policy": {"steps": [{"weight": 5, "ring": "nobody"}]}}, 404, "ring_not_found"),
    ({"to": 2, "policy": {"stepps": []}}, 422, "invalid_request"),
    ({"to": 2, "policy": {"steps": [{"weight": 5}] * 33}}, 422, "invalid_request"),
    ({"to": "newest"}, 422, "invalid_request"),
]


async def test_what_cannot_be_rolled_out_is_refused_with_the_way_out(stage: Stage, demo: Caller) -> None:
    await stage.push(b"three", valid=False)
    await stage.settle(3, "rejected", "differs by 0.5")
    for body, status, code in REFUSED:
        answer = await demo.call("POST", PATH, json=body)
        assert (answer.status_code, answer.json()["code"]) == (status, code), body
    none = await demo.call("GET", f"{PATH}/current")
    assert (none.status_code, none.json()["code"]) == (404, "rollout_not_found")
    arms = [{"version": 1, "weight": 50}, {"version": 2, "weight": 50}]
    await demo.ok("PUT", DEPLOYMENT, json={"versions": [{"version": 1}, {"version": 2}], "traffic": arms})
    await stage.push(b"four")
    split = await demo.call("POST", PATH, json={"to": 4})
    assert (split.status_code, split.json()["code"]) == (409, "traffic_split")
    assert (await demo.ok("POST", PATH, json={"to": 2}))["stable"] == 1, "the one with the other half"


async def test_another_tenant_has_no_rollout_of_this_one(stage: Stage, platform: Platform) -> None:
    rollout = await stage.start()
    stranger = await platform.tenant()
    await stranger.push("digits", b"mine")
    await stranger.ok("PUT", DEPLOYMENT, json={"versions": [{"version": 1}]})
    place = f"{PATH}/{rollout['id']}"
    assert (await stranger.ok("GET", PATH))["rollouts"] == []
    for method, path in (
        ("GET", place), ("GET", f"{place}/verdicts"), ("GET", f"{place}/explain"), ("GET", f"{place}/log"),
        ("POST", f"{place}/replay"), ("POST", f"{place}/abort"), ("POST", f"{place}/promote"),
        ("POST", f"{place}/pause"), ("POST", f"{place}/resume"), ("GET", f"{PATH}/current"),
    ):  # fmt: skip
        answer = await stranger.call(method, path, json={} if path.endswith("replay") else None)
        assert (answer.status_code, answer.json()["code"]) == (404, "rollout_not_found"), path


@pytest.mark.parametrize("policy", [None, {**QUICK, "beta": 0.1}])
async def test_the_deployments_policy_is_what_its_rollouts_go_by(stage: Stage, demo: Caller, policy: Any) -> None:
    spec = {"versions": [{"version": 1}], "policy": policy, "feedback": {"keep_pct": 50}}
    held = await demo.ok("PUT", DEPLOYMENT, json=spec)
    assert held["feedback"]["keep_pct"] == 50
    started = await demo.ok("POST", PATH, json={"to": 2})
    assert started["policy"]["beta"] == (0.1 if policy else 0.05)
    assert [step["weight"] for step in started["policy"]["steps"]] == ([20, 50] if policy else [5, 25, 50])
