"""Policies as files: every number is there with what it means, and what is wrong is named with its place."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from moorage_common.contracts.rollouts import GuardPolicy, RolloutPolicy, Step
from moorage_sdk.cli.app import app
from moorage_sdk.errors import InvalidManifest
from moorage_sdk.rollouts_policy import parse_policy, policy_of, policy_yaml


def test_the_policy_that_is_printed_is_the_default_and_says_what_each_number_means() -> None:
    printed = CliRunner().invoke(app, ["rollout", "policy"]).stdout
    assert parse_policy(printed) == RolloutPolicy()
    written = yaml.safe_load(printed)
    assert set(written) == set(RolloutPolicy.model_fields)
    values = [line for line in printed.splitlines() if ": " in line and not line.lstrip().startswith(("#", "- {"))]
    assert [line for line in values if " # " not in line] == []
    assert max(map(len, printed.splitlines())) <= 120


def test_any_policy_is_printed_so_that_it_is_read_again() -> None:
    steps = [Step(shadow=10.0), Step(ring="staff", weight=50.0, at_most_s=60.5), Step(weight=2.5)]
    policy = RolloutPolicy(steps=steps, guard=GuardPolicy(for_s=0), on_no_evidence="promote")
    assert parse_policy(policy_yaml(policy)) == policy


def test_a_policy_leaves_out_what_it_does_not_change(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("guard: {for_s: 60}\nerrors: {on: false}\n")
    found = policy_of(tmp_path / "p.yaml")
    assert (found.guard.for_s, found.errors.on, found.steps) == (60, False, RolloutPolicy().steps)
    assert policy_of({"guard": {"for_s": 60}, "errors": {"on": False}}) == policy_of(str(tmp_path / "p.yaml")) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("erors: {on: false}", "p.yaml: erors: unknown field; did you mean errors"),
        ("errors: {margin: 2}", "errors.margin: unknown field; did you mean margin_pp"),
        ("steps: [{weight: 5}, {wieght: 9}]", r"steps\.1\.wieght: unknown field; did you mean weight"),
        ("guard: {zzz: 1}", "guard.zzz: unknown field; there are: for_s, holdback"),
        ("steps: [{weight: 50}, {weight: 5}]", "the weights must not go down from step to step"),
        ("steps: [{weight: 5, shadow: 5}]", r"steps\.0: a step either mirrors"),
        ("steps: []", "steps: List should have at least 1 item"),
        ("errors: {alpha: 2}", "errors.alpha: Input should be less than 0.5"),
        ("drift: {action: rollback}", "drift.action: Input should be 'hold', 'alert' or 'roll_back'"),
        ("- weight: 5", "a policy is one mapping; print the default with: moorage rollout policy"),
        ("guard: {}\n---\nguard: {}", "a policy is one mapping"),
        ("guard: [", "p.yaml is not YAML"),
        ("", "p.yaml is empty"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(text: str, said: str) -> None:
    with pytest.raises(InvalidManifest, match=said):
        parse_policy(text, "p.yaml")


def test_a_wrong_policy_is_refused_before_the_platform_is_asked(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("stepps: []\n")
    arguments = ["--registry", "http://127.0.0.1:9", "rollout", "start", "a", "--to", "2", "--policy"]
    environment = {"MOORAGE_API_KEY": "k", "MOORAGE_PROFILE_FILE": str(tmp_path / "profiles.yaml")}
    failed = CliRunner().invoke(app, [*arguments, str(tmp_path / "p.yaml")], env=environment)
    assert "stepps: unknown field; did you mean steps" in str(failed.exception)
    failed = CliRunner().invoke(app, [*arguments, str(tmp_path / "none.yaml")], env=environment)
    assert "none.yaml cannot be read" in str(failed.exception)
    failed = CliRunner().invoke(app, ["rollout", "start", "a", "--to", "newest"])
    assert "--to newest: write a version's number, or latest" in str(failed.exception)
