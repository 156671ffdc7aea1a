"""The client and the command against a real registry. Nothing validates or runs the models here."""

import json
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from typer.testing import CliRunner

from moorage_sdk.cli.app import app
from moorage_sdk.client import Client
from moorage_sdk.errors import InvalidQuantity, MoorageApiError, WaitTimedOut
from moorage_sdk.manifest import parse_manifests


class Registry(Protocol):
    """What the fixture of conftest gives."""

    url: str
    api_key: str


ROWS = np.arange(24.0).reshape(8, 3)


def model(slope: float) -> LinearRegression:
    return LinearRegression().fit(ROWS, ROWS[:, 0] * slope)


def test_an_equal_model_is_the_version_that_is_there_unless_a_new_one_is_asked_for(client: Client) -> None:
    first = client.push(model(1.0), name="equal", example=ROWS, wait=False)
    again = client.push(model(1.0), name="equal", example=ROWS, wait=False)
    forced = client.push(model(1.0), name="equal", example=ROWS, wait=False, new=True)
    assert (first.version, again.version, forced.version) == (1, 1, 2)
    assert first.format == "skops"
    assert [version.version for version in client.registry.versions("equal")] == [1, 2]
    assert first.libraries["scikit-learn"]


def test_a_push_that_waits_says_that_validation_goes_on(client: Client) -> None:
    with pytest.raises(WaitTimedOut, match=r"slow version 1 is still .* moorage versions slow"):
        client.push(model(1.0), name="slow", example=ROWS, timeout_s=0.3)


def test_deploying_a_second_version_keeps_the_first_and_the_traffic(client: Client) -> None:
    one = client.push(model(1.0), name="pair", example=ROWS, wait=False)
    two = client.push(model(2.0), name="pair", example=ROWS, wait=False)
    endpoint = client.deploy(one, gpu=0.5, memory="1Gi", wait=False)
    client.deploy(two, gpu=0.25, wait=False)
    assert endpoint.url == "http://127.0.0.1:9/v2/models/pair"
    deployment = client.registry.deployment("pair")
    assert deployment is not None
    assert [(v["version"], v["resources"]["gpu_milli"]) for v in deployment["versions"]] == [(1, 500), (2, 250)]
    assert [(arm.version, arm.weight_bp) for arm in client.registry.traffic("pair").arms] == [(1, 10_000)]
    split = client.set_traffic("pair", {1: 90, 2: 10})
    assert [(arm.version, arm.weight_bp) for arm in split.arms] == [(1, 9000), (2, 1000)]
    client.deploy("pair", gpu=0.25, traffic={1: 50, 2: 50}, wait=False)
    assert [arm.weight_bp for arm in client.registry.traffic("pair").arms] == [5000, 5000]


def test_where_and_how_a_version_may_run_stays_when_another_is_deployed(client: Client) -> None:
    one = client.push(model(1.0), name="placed", example=ROWS, wait=False)
    two = client.push(model(2.0), name="placed", example=ROWS, wait=False)
    client.deploy(
        one, gpu=0.1, min=0, max=1, wait=False, gpu_profiles={"H100": {"gpu": 0.05, "gpu_memory": "4Gi"}}, elastic=10,
        node_labels={"zone": "a"}, idle="5m", scheduling_class="scavenger", priority=70, pinned=True,
    )  # fmt: skip
    client.deploy(two, wait=False)
    deployment = client.registry.deployment("placed")
    assert deployment is not None
    first, second = deployment["versions"]
    assert first["resources"]["gpu_profiles"] == {"H100": {"gpu_milli": 50, "gpu_mem_mib": 4096}}
    assert (first["resources"]["elastic_pct"], first["resources"]["node_labels"]) == (10, {"zone": "a"})
    assert (first["scaling"]["idle_s"], first["priority"], first["pinned"]) == (300, 70, True)
    assert (first["scheduling_class"], second["scheduling_class"]) == ("scavenger", "standard")


def test_a_deployment_that_does_not_come_up_says_why(client: Client) -> None:
    version = client.push(model(1.0), name="stuck", example=ROWS, wait=False)
    with pytest.raises(WaitTimedOut, match=r"stuck version 1 is not ready .* no replica has been placed"):
        client.deploy(version, timeout_s=0.3)


def test_a_quantity_is_refused_before_the_platform_is_asked(client: Client) -> None:
    with pytest.raises(InvalidQuantity, match="memory: '4GB'"):
        client.deploy("pair", version=1, memory="4GB")


def test_applying_a_manifest_again_changes_nothing(client: Client) -> None:
    client.push(model(1.0), name="declared", example=ROWS, wait=False)
    (manifest,) = parse_manifests("model: declared\nversion: latest\nresources: {gpu: 0.5, memory: 1Gi}\n")
    planned = client.apply(manifest, dry_run=True)
    assert planned
    assert client.registry.deployment("declared") is None
    assert client.apply(manifest) == planned
    assert client.apply(manifest) == []
    (changed,) = parse_manifests("model: declared\nversion: latest\nresources: {gpu: 0.75, memory: 1Gi}\n")
    (change,) = client.apply(changed, dry_run=True)
    assert (change.path, change.before, change.after) == ("versions.1.resources.gpu_milli", 500, 750)


def test_a_refusal_carries_status_code_and_the_platforms_text(client: Client) -> None:
    with pytest.raises(MoorageApiError, match=r"there is no|has no|unknown") as caught:
        client.registry.version("nothing", 1)
    assert caught.value.status == 404
    assert caught.value.code


def test_events_are_read_in_order_and_from_where_one_stopped(client: Client) -> None:
    client.push(model(3.0), name="told", example=ROWS, wait=False)
    every = list(client.events())
    assert "version.uploaded" in {event.type for event in every}
    assert [event.id for event in client.events(after=every[1].id)][:1] == [every[2].id]


@pytest.fixture
def command(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """The command, logged in by a local platform's file."""
    monkeypatch.setenv("MOORAGE_PROFILE_FILE", str(tmp_path / "profiles.yaml"))
    for name in ("MOORAGE_REGISTRY", "MOORAGE_ROUTER", "MOORAGE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    known = {"registry": registry.url, "router": "http://127.0.0.1:9", "api_key": registry.api_key}
    (tmp_path / "local.json").write_text(json.dumps(known))
    runner = CliRunner()
    shown = runner.invoke(app, ["login", "--local", str(tmp_path)])
    assert "logged in as tenant harbour" in shown.output
    return runner


def said(command: CliRunner, *arguments: str) -> str:
    shown = command.invoke(app, list(arguments), catch_exceptions=False)
    assert shown.exit_code == 0
    return shown.stdout


def test_the_command_shows_what_the_platform_holds(command: CliRunner, client: Client, tmp_path: Path) -> None:
    client.push(model(1.0), name="shown", example=ROWS, wait=False)
    (tmp_path / "m.yaml").write_text("model: shown\nversion: 1\nresources: {gpu: 0.5}\n")
    assert json.loads(said(command, "whoami", "--json"))[0]["tenant"] == "harbour"
    assert "shown\t1\t1\t" in said(command, "models")
    assert json.loads(said(command, "versions", "shown", "--json"))[0]["format"] == "skops"
    planned = said(command, "apply", "-f", str(tmp_path / "m.yaml"), "--dry-run")
    assert planned.startswith("shown: would change\n")
    assert "  versions.1.resources.gpu_milli: (none) -> 500\n" in planned
    assert said(command, "apply", "-f", str(tmp_path / "m.yaml")).startswith("shown: changed\n")
    assert said(command, "apply", "-f", str(tmp_path / "m.yaml")) == "shown: unchanged\n"
    assert said(command, "traffic", "shown") == "version\tpercent\trole\n1\t100\tstable\n"
    assert (
        said(command, "status", "shown")
        == "\t".join(["model", "version", "state", "node", "devices", "gpu_milli", "restarts", "host_id", "reason"])
        + "\n"
    )
    assert (
        said(command, "usage")
        == "\t".join(["model", "version", "requests", "errors", "rows", "bytes_in", "bytes_out", "busy_us"]) + "\n"
    )
    assert "version.uploaded" in said(command, "events")
    assert said(command, "logs", "shown") == ""


def test_the_command_makes_and_revokes_keys(command: CliRunner, registry: Registry) -> None:
    made = json.loads(said(command, "keys", "create", "infer:shown", "--json"))
    assert made["key"].startswith("mrg_live_")
    assert made["kid"] in said(command, "keys", "list")
    said(command, "keys", "revoke", made["kid"])
    with (
        Client(registry.url, registry.url, made["key"]) as revoked,
        pytest.raises(MoorageApiError) as caught,
    ):
        revoked.registry.whoami()
    assert caught.value.status == 401


def test_the_command_binds_changes_and_rotates_keys(command: CliRunner, registry: Registry) -> None:
    bound = ("--name", "nightly", "--cidr", "127.0.0.0/8", "--rate", "5", "--burst", "9", "--expires-in-s", "600")
    made = json.loads(said(command, "keys", "create", "infer:shown", *bound, "--json"))
    assert (made["name"], made["cidrs"]) == ("nightly", ["127.0.0.0/8"])
    assert made["rate"] == {"requests_per_s": 5, "burst": 9}
    kid = made["kid"]
    changed = said(command, "keys", "change", kid, "--anywhere", "--no-rate", "--expires-in-s", "60", "--json")
    assert json.loads(said(command, "keys", "show", kid, "--json")) == json.loads(changed)
    assert (json.loads(changed)["cidrs"], json.loads(changed)["rate"]) == ([], None)
    assert made["key"][-38:] not in said(command, "keys", "show", kid)
    new = json.loads(said(command, "keys", "rotate", kid, "--overlap-s", "5", "--json"))
    assert json.loads(said(command, "keys", "show", kid, "--json"))["replaced_by"] == new["kid"]
    with Client(registry.url, registry.url, new["key"]) as successor:
        assert successor.registry.whoami()["kid"] == new["kid"]
    half = command.invoke(app, ["keys", "create", "infer:shown", "--rate", "5"])
    assert half.exit_code != 0


def test_a_leaked_key_is_reported_from_standard_input_without_a_key_of_ones_own(
    command: CliRunner, registry: Registry
) -> None:
    made = json.loads(said(command, "keys", "create", "infer:shown", "--json"))
    result = command.invoke(app, ["keys", "report-leaked"], input=f"{made['key']}\n", env={"MOORAGE_API_KEY": ""})
    assert result.exit_code == 0, result.output
    with (
        Client(registry.url, registry.url, made["key"]) as leaked,
        pytest.raises(MoorageApiError, match="revoked"),
    ):
        leaked.registry.whoami()
