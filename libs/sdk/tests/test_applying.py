"""Applying `rollout: {to: N}`: it begins what is not there yet, once, and brings back nothing that was taken away."""

from typing import Any

import pytest

from moorage_sdk.applying import Begin, Deploy, Leave, settling, spec_for, wanted
from moorage_sdk.errors import SdkError
from moorage_sdk.rollouts_answers import Rollout


def held(*versions: int, weights: tuple[int, ...] = ()) -> dict[str, Any]:
    shares = weights or (10_000, *(0 for _ in versions[1:]))
    arms = [{"version": one, "weight_bp": share} for one, share in zip(versions, shares, strict=True)]
    return {"versions": [{"version": one, "priority": 10} for one in versions], "traffic": {"arms": arms}}


def rollout(state: str, to: int = 3, reason: str = "") -> Rollout:
    told = {"id": f"{to}-{state}", "model": "fraud", "stable": 2, "candidate": to, "state": state, "reason": reason}
    return Rollout.model_validate({**told, "weight": 25, "started_at": 0})


def test_the_first_version_is_deployed_without_a_rollout() -> None:
    assert wanted("fraud", 3, None, [], again=False) == Deploy()


@pytest.mark.parametrize("before", [[], [rollout("done", to=2)], [rollout("done"), rollout("rolled_back")]])
def test_a_version_that_does_not_answer_is_rolled_out(before: list[Rollout]) -> None:
    assert wanted("fraud", 3, held(1, 2, weights=(1000, 9000)), before, again=False) == Begin(stable=2)


def test_a_version_that_answers_already_or_is_on_its_way_is_left() -> None:
    assert wanted("fraud", 3, held(3), [rollout("done")], again=False) == Leave()
    found = wanted("fraud", 3, held(2, 3), [rollout("hold")], again=True)
    assert found == Leave("the rollout to version 3 goes on (hold at 25 %)")


def test_a_version_that_was_rolled_back_is_not_tried_again_unasked() -> None:
    history = [rollout("done", to=4), rollout("rolled_back", reason="5 % of its requests failed."), rollout("done")]
    found = wanted("fraud", 3, held(2), history, again=False)
    assert found == Leave(
        "version 3 was rolled back (5 % of its requests failed); apply with --again to roll it out once more"
    )
    assert wanted("fraud", 3, held(2), history, again=True) == Begin(stable=2)
    aborted = wanted("fraud", 3, held(2), [rollout("aborted")], again=False)
    assert isinstance(aborted, Leave)
    assert aborted.why.startswith("version 3 was aborted; ")


def test_another_rollout_is_not_cut_short() -> None:
    with pytest.raises(SdkError, match=r"a rollout to version 4 runs; .* moorage rollout abort fraud"):
        wanted("fraud", 3, held(2, 4), [rollout("baking", to=4)], again=True)


DECLARED = {"versions": [{"version": 2, "priority": 1}, {"version": 3, "priority": 2}], "deadline_ms": 50}


def numbers(spec: dict[str, Any]) -> list[tuple[int, int | None]]:
    return [(version["version"], version.get("priority")) for version in spec["versions"]]


def test_what_is_held_stays_as_declared_and_nothing_else_comes_back() -> None:
    assert numbers(spec_for(DECLARED, held(1, 2), 3, Begin(2))) == [(1, 10), (2, 1), (3, 2)]
    assert numbers(spec_for(DECLARED, held(3), 3, Leave())) == [(3, 2)]
    assert numbers(spec_for(DECLARED, held(2), 3, Leave("was rolled back"))) == [(2, 1)]
    assert numbers(spec_for(DECLARED, None, 3, Deploy())) == [(3, 2)]
    assert spec_for(DECLARED, None, 3, Deploy())["deadline_ms"] == 50


def test_a_version_without_settings_of_its_own_is_left_to_the_rollout() -> None:
    only_two = {"versions": [{"version": 2, "priority": 1}]}
    assert numbers(spec_for(only_two, held(2), 3, Begin(2))) == [(2, 1)]
    assert numbers(spec_for(only_two, None, 3, Deploy())) == [(3, None)]
    latest = {"versions": [{"version": "latest", "priority": 7}]}
    assert numbers(spec_for(latest, held(2), 3, Begin(2))) == [(2, 10), (3, 7)]


def test_a_rollout_that_runs_or_has_just_ended_keeps_its_versions_settings() -> None:
    ended = [rollout("rolled_back").model_copy(update={"finished_at": 1000.0})]
    assert settling([rollout("baking")], 1e9) == settling(ended, 1010.0) == {2, 3}
    assert settling(ended, 1100.0) == settling([], 0.0) == frozenset()
    assert numbers(spec_for(DECLARED, held(2, 3), 3, Leave("goes on"), {2, 3})) == [(2, 10), (3, 10)]
