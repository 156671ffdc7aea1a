"""Rollouts by SDK, command and manifest, against a real registry that judges what a played router tells it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from sdk_rollout_side import OtherSide
from sklearn.linear_model import LinearRegression
from typer.testing import CliRunner, Result

from moorage_common.testing.servers import wait_until
from moorage_sdk.cli.app import app
from moorage_sdk.client import Client
from moorage_sdk.errors import MoorageApiError, RolledBack, SdkError, WaitTimedOut
from moorage_sdk.manifest import parse_manifests
from moorage_sdk.rollouts import LiveRollout

ROWS = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 3.0], [4.0, 1.0]], dtype=np.float32)
STEP = {"at_least_s": 0.2, "at_most_s": 30}
QUICK: dict[str, Any] = {
    "steps": [{"weight": 10, **STEP}, {"weight": 50, **STEP}],
    "guard": {"for_s": 0.2},
    "baseline_requests": 1000,
    "drift": {"on": False},
    "latency": {"on": False},
}


class Registry(Protocol):
    """What the fixture of conftest gives."""

    url: str
    api_key: str


@pytest.fixture(scope="module")
def side(nats_url: str, registry: Registry) -> Iterator[OtherSide]:
    with OtherSide(nats_url) as other:
        yield other


@pytest.fixture
def command(registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("MOORAGE_PROFILE_FILE", str(tmp_path / "profiles.yaml"))
    for name, value in (("REGISTRY", registry.url), ("ROUTER", "http://127.0.0.1:9"), ("API_KEY", registry.api_key)):
        monkeypatch.setenv(f"MOORAGE_{name}", value)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments))

    return run


def deployed(client: Client, name: str, versions: int = 2) -> None:
    """`versions` ready versions of a model, the first one deployed."""
    for number in range(versions):
        model = LinearRegression().fit(ROWS, ROWS[:, 0] * (number + 1))
        client.push(model, name=name, example=ROWS, timeout_s=30)
    client.deploy(name, version=1, wait=False)


def states(rollout: LiveRollout, client: Client) -> list[str]:
    return [verdict.kind for verdict in client.rollouts.verdicts(rollout.seen.model, rollout.id).verdicts]


def test_a_version_that_is_no_worse_takes_over(client: Client, side: OtherSide) -> None:
    deployed(client, "better")
    rollout = client.rollouts.start("better", to=2, policy=QUICK)
    assert (rollout.seen.stable, rollout.seen.candidate, rollout.seen.weight) == (1, 2, 0)
    assert rollout.wait(until="done", timeout_s=60).state == "done"
    assert states(rollout, client) == ["started", "advanced", "advanced", "promoted", "done"]
    assert [arm.version for arm in client.registry.traffic("better").arms] == [2]
    replayed = rollout.replay()
    assert replayed.same
    assert (replayed.failures, replayed.entries) == ([], rollout.refresh().seq)
    assert [entry["seq"] for entry in client.rollouts.log("better", page=7)] == list(range(1, replayed.entries + 1))


def held(client: Client, name: str) -> list[int]:
    found = client.registry.deployment(name)
    return [] if found is None else [version["version"] for version in found["versions"]]


def test_a_version_that_fails_is_rolled_back_and_says_why(client: Client, side: OtherSide) -> None:
    deployed(client, "worse")
    side.traffic.bad_share["worse", 2] = 0.3
    rollout = client.rollouts.start("worse", policy=QUICK)
    with pytest.raises(RolledBack, match=r"the rollout of worse to version 2 was rolled back: .*%") as caught:
        rollout.wait(timeout_s=60)
    assert caught.value.rollout.state == "rolled_back"
    told = rollout.explain()
    assert "of stable's" in told.sentence
    errors = next(one for one in told.evidence.signals if one.name == "errors")
    assert errors.crossed
    assert errors.share == 1
    assert client.rollouts.verdicts("worse").intact
    assert [arm.version for arm in client.registry.traffic("worse").arms] == [1]
    (failure,) = [one for one in rollout.replay().failures if one.action == "roll_back"]
    assert failure.signal == "errors"
    other = rollout.replay(policy={**QUICK, "errors": {"on": False}})
    assert [one.signal for one in other.failures] == []


def test_a_rollout_is_paused_resumed_promoted_and_aborted_by_people(client: Client, side: OtherSide) -> None:
    deployed(client, "steered")
    slow = {**QUICK, "steps": [{"weight": 10, "at_least_s": 3600, "at_most_s": 3600}], "guard": {"for_s": 3600}}
    rollout = client.rollouts.start("steered", policy=slow)
    wait_until(lambda: rollout.state == "baking", timeout_s=30, what="the first step")
    with pytest.raises(MoorageApiError) as caught:
        client.rollouts.start("steered", policy=slow)
    assert caught.value.code == "rollout_running"
    with pytest.raises(WaitTimedOut, match=r"is baking after 0 s: .* moorage rollout status steered"):
        rollout.wait(timeout_s=0)
    assert rollout.pause().state == "paused"
    assert rollout.resume().state == "baking"
    assert (rollout.promote().state, rollout.seen.weight) == ("guarded", 95)
    assert rollout.wait(timeout_s=30).is_promoted
    assert "promoted, guarded" in rollout._repr_html_()
    assert rollout.abort().state == "aborted"
    with pytest.raises(RolledBack, match="was aborted"):
        rollout.wait()
    assert client.rollouts.get("steered", rollout.id).seen.state == "aborted"
    assert [one.id for one in client.rollouts.history("steered")] == [rollout.id]


def test_the_command_starts_a_rollout_follows_it_and_says_by_its_code_how_it_ended(
    command: Any, client: Client, side: OtherSide, tmp_path: Path
) -> None:
    deployed(client, "followed", versions=3)
    side.traffic.bad_share["followed", 3] = 0.5
    policy = tmp_path / "policy.yaml"
    policy.write_text(json.dumps(QUICK))
    shown = command("rollout", "start", "followed", "--to", "2", "--policy", str(policy), "--watch", "--until", "done")
    assert shown.exit_code == 0, shown.output
    assert "version 2 in the place of 1: promoted, guarded" in shown.stdout
    assert shown.stdout.splitlines()[-1].startswith("followed: ") or "done" in shown.stdout.splitlines()[-1]
    started = command("rollout", "start", "followed", "--to", "latest", "--policy", str(policy), "--json")
    assert json.loads(started.stdout)["candidate"] == 3
    assert held(client, "followed") == [2, 3], "version 1 leaves at once for the next rollout"
    assert command("rollout", "status", "followed", "--watch").exit_code == 2
    told = command("rollout", "status", "followed").stdout
    assert told.startswith("followed: version 3 in the place of 2: rolled back: ")
    assert "\nerrors: version 2 0 % bad of " in told
    whole = json.loads(command("rollout", "status", "followed", "--json").stdout)
    assert whole["verdicts"][-1]["kind"] == "rolled_back"
    rows = [line.split("\t") for line in command("rollout", "history", "followed").stdout.splitlines()]
    assert [row[1:4] for row in rows] == [["from", "to", "state"], ["2", "3", "rolled_back"], ["1", "2", "done"]]
    explained = command("rollout", "explain", "followed").stdout
    assert explained.splitlines()[-1] == f"the chain of {len(whole['verdicts'])} verdicts is intact"
    replayed = command("rollout", "replay", "followed")
    assert replayed.exit_code == 0
    assert "the evidence is the same to the bit\n" in replayed.stdout
    policy.write_text(json.dumps({**QUICK, "errors": {"on": False}}))
    other = command("rollout", "replay", "followed", "--policy", str(policy))
    assert "this policy would not have acted\n" in other.stdout
    again = command("rollout", "abort", "followed")
    assert isinstance(again.exception, MoorageApiError)
    assert again.exception.code == "rollout_over"


MANIFEST = """
model: declared-rollout
resources: {cpu: 500m}
rollout: {to: %d}
policy: %s
"""


def applied(client: Client, to: int, **options: Any) -> list[tuple[str, Any, Any]]:
    (manifest,) = parse_manifests(MANIFEST % (to, json.dumps(QUICK)))
    return [(change.path, change.before, change.after) for change in client.apply(manifest, **options)]


def test_a_manifest_rolls_out_what_it_declares_once(registry: Registry, side: OtherSide) -> None:
    said: list[str] = []
    name = "declared-rollout"
    with Client(registry.url, "http://127.0.0.1:9", registry.api_key, progress=said.append) as client:
        for number in range(3):
            client.push(LinearRegression().fit(ROWS, ROWS[:, 0] * (number + 1)), name=name, example=ROWS, timeout_s=30)
        assert applied(client, 1)
        assert held(client, name) == [1]
        assert applied(client, 1) == []
        assert ("rollout", 1, 2) in applied(client, 2, dry_run=True)
        assert client.rollouts.last(name) is None
        assert ("rollout", 1, 2) in applied(client, 2)
        live = client.rollouts.get(name)
        assert (live.seen.candidate, live.seen.policy.guard.for_s) == (2, 0.2)
        assert not [path for path, *_ in applied(client, 2) if path == "rollout"]
        live.wait(until="done", timeout_s=60)
        applied(client, 2)
        wait_until(lambda: held(client, name) == [2], timeout_s=30, what="version 1 to leave")
        side.traffic.bad_share[name, 3] = 0.5
        applied(client, 3)
        with pytest.raises(RolledBack):
            client.rollouts.get(name).wait(timeout_s=60)
        said.clear()
        assert [path for path, *_ in applied(client, 3) if path == "rollout"] == []
        assert f"{name}: version 3 was rolled back (" in said[0]
        assert said[0].endswith("; apply with --again to roll it out once more")
        assert ("rollout", 2, 3) in applied(client, 3, again=True)
        with pytest.raises(SdkError, match="a rollout to version 3 runs"):
            applied(client, 1)
        client.rollouts.abort(name)
