"""What a rollout does next."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage_common.contracts.rollouts import GuardPolicy, RolloutPolicy, Step
from moorage_registry.rollouts.judge import Evidence, Failure, SafetyEvidence
from moorage_registry.rollouts.steps import (
    LABELS_WAITED_FOR_S,
    Alert,
    Begin,
    Facts,
    Finish,
    Hold,
    Promote,
    RollBack,
    Rollout,
    Stay,
    decide,
)

POLICY = RolloutPolicy(
    steps=[Step(weight=5.0), Step(weight=50.0)],
    guard=GuardPolicy(for_s=100.0),
    baseline_requests=2000,
    baseline_at_most_s=60.0,
)
READY = Facts(candidate_ready=2, candidate_wanted=2, stable_ready=3, stable_wanted=3)
LACKING = SafetyEvidence(name="errors", log_e=1.0, threshold=4.0, needed_requests=120)
PASSED = SafetyEvidence(name="errors", log_e=4.1, threshold=4.0)
BAD = Failure(signal="errors", action="roll_back", sentence="9 % failed.")
DRIFTS = Failure(signal="drift", action="hold", sentence="Other answers.")


def at(step: int, state: str = "baking", **settings: Any) -> Rollout:
    policy = POLICY.model_copy(update=settings)
    return Rollout(state=state, step=step, step_began_at=1000.0, policy=policy)  # type: ignore[arg-type]


def seen(*safety: SafetyEvidence, **counts: int) -> Evidence:
    return Evidence(safety=safety, **counts)


def test_the_first_step_begins_once_enough_of_stable_was_seen_or_the_time_for_it_is_over() -> None:
    assert isinstance(decide(at(-1, "pending"), seen(baseline_requests=1999), None, READY, 1059), Stay)
    assert decide(at(-1, "pending"), seen(baseline_requests=2000), None, READY, 1001) == Begin(0)
    assert decide(at(-1, "pending"), seen(baseline_requests=0), None, READY, 1060) == Begin(0)


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"skew": "Other features."}, "Other features."),
        ({"no_room": "No GPU is free.", "candidate_ready": 0}, "No GPU is free."),
        ({"no_room": "No GPU is free.", "stable_ready": 2}, "No GPU is free."),
        ({"stable_ready": 2}, "2 of 3 replicas of stable are ready"),
    ],
)
def test_nothing_gets_traffic_while_it_has_no_room_or_other_features_or_stable_could_not_take_it_back(
    facts: dict[str, Any], text: str
) -> None:
    decided = decide(at(-1, "pending"), seen(baseline_requests=9999), None, replace(READY, **facts), 5000)
    assert isinstance(decided, Hold)
    assert text in decided.reason


def test_one_replica_of_the_candidate_is_enough_where_there_is_room_for_no_more() -> None:
    lone = replace(READY, candidate_ready=1)
    enough = seen(baseline_requests=2000)
    assert isinstance(decide(at(-1, "pending"), enough, None, lone, 1060), Stay)
    assert decide(at(-1, "pending"), enough, None, replace(lone, no_room="Full."), 1060) == Begin(0)
    assert decide(at(-1, "pending"), enough, None, replace(lone, candidate_wanted=1), 1060) == Begin(0)


def test_a_candidate_that_does_not_get_ready_in_its_time_is_rolled_back() -> None:
    never = replace(READY, candidate_ready=0)
    assert isinstance(decide(at(-1, "pending"), seen(), None, never, 1600), Stay)
    decided = decide(at(-1, "pending"), seen(), None, never, 1601)
    assert decided == RollBack(
        "deterministic", "After 601 s 0 of 2 replicas of the candidate are ready; 600 s are allowed."
    )


def test_a_step_is_passed_on_evidence_of_safety_alone_and_not_before_its_least_time() -> None:
    assert isinstance(decide(at(0), seen(PASSED), None, READY, 1059), Stay)
    assert decide(at(0), seen(PASSED), None, READY, 1060) == Begin(1)
    assert decide(at(1), seen(PASSED), None, READY, 1060) == Promote()
    assert isinstance(decide(at(0), seen(PASSED, LACKING), None, READY, 1060), Stay)


def test_without_evidence_a_step_holds_when_its_time_is_over_and_says_what_is_needed_and_when() -> None:
    evidence = seen(LACKING, candidate_requests=300)
    decided = decide(at(0), evidence, None, READY, 1900)
    assert isinstance(decided, Hold)
    assert decided.needed == 120
    assert decided.eta_s == 120 * 900 / 300
    assert "about 120 more are needed" in decided.reason
    nothing = decide(at(0), seen(), None, READY, 1900)
    assert isinstance(nothing, Hold)
    assert nothing.needed is None


def test_a_policy_may_promote_without_evidence_when_the_time_is_over() -> None:
    assert isinstance(decide(at(0, on_no_evidence="promote"), seen(LACKING), None, READY, 1899), Stay)
    assert decide(at(0, on_no_evidence="promote"), seen(LACKING), None, READY, 1900) == Begin(1)


@pytest.mark.parametrize("state", ["pending", "baking", "hold", "paused", "guarded"])
def test_a_failure_rolls_back_in_every_state_that_is_not_final(state: str) -> None:
    step = {"pending": -1, "guarded": 2}.get(state, 0)
    assert decide(at(step, state), seen(PASSED), BAD, READY, 1e6) == RollBack("errors", "9 % failed.")
    crashed = replace(READY, failed="It crashes on load.")
    assert decide(at(step, state), seen(PASSED), None, crashed, 1e6) == RollBack("deterministic", "It crashes on load.")


@pytest.mark.parametrize("state", ["done", "rolled_back", "aborted"])
def test_nothing_is_decided_once_it_is_over(state: str) -> None:
    assert isinstance(decide(at(0, state), seen(PASSED), BAD, replace(READY, failed="Broken."), 1e6), Stay)


def test_a_hold_is_left_as_soon_as_its_cause_is_gone() -> None:
    assert decide(at(0, "hold"), seen(PASSED), DRIFTS, READY, 1100) == Hold("Other answers.")
    assert decide(at(0, "hold"), seen(PASSED), None, replace(READY, stable_ready=1, no_room="Full."), 1100) == Hold(
        "Full."
    )
    assert decide(at(0, "hold"), seen(PASSED), None, READY, 1100) == Begin(1)


def test_a_paused_rollout_makes_no_step() -> None:
    assert decide(at(0, "paused"), seen(PASSED), None, READY, 1e6) == Stay("paused by a person")
    assert decide(at(2, "paused"), seen(), None, READY, 1e6) == Stay("paused by a person")


def test_an_alert_is_given_once_and_holds_nothing() -> None:
    alert = DRIFTS.model_copy(update={"action": "alert"})
    assert decide(at(0), seen(PASSED), alert, READY, 1100) == Alert("drift", "Other answers.")
    told = replace(at(0), alerted=frozenset({"drift"}))
    assert decide(told, seen(PASSED), alert, READY, 1100) == Begin(1)


def test_the_guard_ends_when_its_time_and_that_of_late_labels_is_over_and_what_would_hold_a_step_is_told() -> None:
    assert isinstance(decide(at(2, "guarded"), seen(), None, READY, 1099), Stay)
    assert decide(at(2, "guarded"), seen(), None, READY, 1100) == Finish()
    assert isinstance(decide(at(2, "guarded"), seen(), None, replace(READY, label_delay_s=200.0), 1100), Stay)
    year = replace(READY, label_delay_s=365 * 86_400.0)
    assert decide(at(2, "guarded"), seen(), None, year, 1000 + LABELS_WAITED_FOR_S) == Finish(), "not for good"
    assert decide(at(2, "guarded"), seen(), DRIFTS, READY, 1050) == Alert("drift", "Other answers.")
    told = replace(at(2, "guarded"), alerted=frozenset({"drift"}))
    assert isinstance(decide(told, seen(), DRIFTS, READY, 1050), Stay)


_FACTS = st.builds(
    Facts,
    candidate_ready=st.integers(0, 3),
    candidate_wanted=st.integers(1, 2),
    stable_ready=st.integers(0, 3),
    stable_wanted=st.integers(1, 3),
    no_room=st.sampled_from([None, "Full."]),
    skew=st.sampled_from([None, "Skewed."]),
)


@given(
    step=st.integers(-1, 2),
    state=st.sampled_from(["baking", "hold", "paused"]),
    facts=_FACTS,
    passed=st.booleans(),
    now=st.floats(1000, 1e5),
)
def test_more_traffic_is_given_only_with_evidence_and_a_stable_version_that_can_take_it_back(
    step: int, state: str, facts: Facts, passed: bool, now: float
) -> None:
    decided = decide(at(step, state), seen(PASSED if passed else LACKING), None, facts, now)
    if isinstance(decided, Begin | Promote):
        assert facts.stable_ready >= facts.stable_wanted
        assert facts.candidate_ready
        assert not facts.skew
        assert state != "paused"
        assert passed or step == -1
