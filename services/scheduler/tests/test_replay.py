"""Each decision can be made again from what was recorded, and comes out alike."""

import json
from pathlib import Path
from typing import Any

import pytest
from asked_of_two import SIZES, ask, cluster_of
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from moorage_scheduler.journal import Journal, why
from moorage_scheduler.placement.decisions import Place
from moorage_scheduler.placement.plan import place
from moorage_scheduler.placement.state import Ask, ClusterState, Held
from moorage_scheduler.replay import replay
from moorage_sdk.cli.app import app


def decided(journal: Journal, state: ClusterState, name: str, wanted: Ask) -> None:
    state.observe(wanted)
    decision = place(state, wanted)
    journal.decided(state, wanted, decision)
    if isinstance(decision, Place):
        journal.keep(name, why(state, wanted, decision))
        state.add(name, Held(wanted, decision.node, decision.devices, decision.gpu_milli or None))


def stored(journal: Journal, state: ClusterState) -> dict[str, Any]:
    """As an operator's file has it."""
    text: dict[str, Any] = json.loads(json.dumps(journal.recorded(state)))
    return text


STEPS = st.lists(
    st.tuples(st.sampled_from(["place", "place", "place", "remove", "close", "open", "node"]), st.integers(1, 1000)),
    max_size=60,
)


@given(STEPS)
def test_recorded_decisions_come_out_the_same_whatever_happened_between_them(steps: list[tuple[str, int]]) -> None:
    journal, state = Journal(most=10), cluster_of()
    for number, (step, milli) in enumerate(steps):
        match step:
            case "place":
                more = {"elastic_pct": 20} if milli % 3 == 0 else {"gpu_models": ["H100"]} if milli % 5 == 0 else {}
                decided(journal, state, f"r{number}", ask(milli, f"m{milli % 4}", **more))
            case "remove" if state.held:
                state.remove(sorted(state.held)[milli % len(state.held)])
            case "close":
                state.close([SIZES[milli % 2].name])
            case "open":
                state.close([])
            case "node":
                state.set_nodes(SIZES[: 1 + milli % 2])
    outcome = replay(stored(journal, state))
    assert len(outcome["decisions"]) == len(journal.entries) <= 10
    assert [row for row in outcome["decisions"] if not row["same"]] == []


def test_typical_asks_learnt_between_decisions_are_replayed() -> None:
    journal, state = Journal(), cluster_of()
    for number in range(230):
        decided(journal, state, f"r{number}", ask(300 + number % 3 * 100, f"m{number}"))
        if number % 3:
            state.remove(next(iter(state.held)))
    assert state.typical.classes
    assert all(row["same"] for row in replay(stored(journal, state))["decisions"])


def test_a_decision_that_comes_out_otherwise_is_said() -> None:
    journal, state = Journal(), cluster_of()
    decided(journal, state, "r", ask(500))
    recorded = stored(journal, state)
    recorded["decisions"][0]["decision"]["node"] = "elsewhere"
    (row,) = replay(recorded)["decisions"]
    assert (row["same"], row["recorded"], row["replayed"]) == (
        False,
        "place elsewhere GPU 0 (500)",
        "place a GPU 0 (500)",
    )


def test_the_same_answer_on_the_same_state_is_noted_once() -> None:
    journal, state = Journal(), cluster_of()
    for _ in range(5):
        decided(journal, state, "r", ask(1000, devices=3))
        decided(journal, state, "s", ask(1000, devices=4))
    assert len(journal.entries) == 2


def test_of_what_decisions_rest_on_only_the_changes_are_kept() -> None:
    journal, state = Journal(most=2), cluster_of()
    everyone = [f"r{number}" for number in range(100)]
    for number, (milli, now) in enumerate([(500, 1.0), (1001, 2.0), (1002, 3.0), (1003, 4.0)]):
        wanted = ask(min(milli, 1000), f"m{number}", devices=1 if milli == 500 else 9)
        journal.decided(state, wanted, place(state, wanted), at=0.0, ready=everyone, now=now)
    recorded = stored(journal, state)
    assert recorded["context"] == {"ready": everyone, "now": 2.0}
    assert [entry["context"] for entry in recorded["decisions"]] == [{"now": 3.0}, {"now": 4.0}]


def test_what_would_be_decided_on_an_ask_of_ones_own() -> None:
    journal, state = Journal(), cluster_of()
    asked = replay(stored(journal, state), {"gpu_milli": 500, "gpu_models": ["H100"]})["asked"]
    assert asked["decided"] == "place b GPU 0 (500)"
    for wrong, said in (({"gpu": 1}, "--ask knows no gpu"), ({"gpu_milli": -1}, "gpu_milli")):
        with pytest.raises(ValueError, match=said):
            replay(stored(journal, state), wrong)
    for other in ({}, {"format": 2}, {"format": 1}):
        with pytest.raises(ValueError, match="recorded state"):
            replay(other)


def test_the_command_replays_a_file_without_a_platform(tmp_path: Path) -> None:
    journal, state = Journal(), cluster_of()
    decided(journal, state, "r", ask(500))
    (tmp_path / "state.json").write_text(json.dumps(journal.recorded(state)))

    def run(*more: str) -> Result:
        return CliRunner().invoke(app, ["scheduler", "replay", str(tmp_path / "state.json"), *more])

    shown = run("--ask", '{"gpu_milli": 600}').stdout.splitlines()
    assert shown[1].split("\t")[2:] == ["place a GPU 0 (500)", "place a GPU 0 (500)", "True"]
    assert shown[3].split("\t")[1] == "place a GPU 1 (600)"
    assert json.loads(run("--json").stdout)["decisions"][0]["same"]
    wrong = journal.recorded(state)
    wrong["decisions"][0]["decision"]["node"] = "b"
    (tmp_path / "state.json").write_text(json.dumps(wrong))
    assert "1 of 1 decisions came out otherwise" in str(run().exception)
    (tmp_path / "state.json").write_text("{}")
    assert "is no recorded state" in str(run().exception)
