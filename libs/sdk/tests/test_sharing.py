"""Changes of traffic as people write them, and the commands that make them."""

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from moorage_common import api_keys
from moorage_sdk.answers import RingShare, Stickiness, Traffic, TrafficArm
from moorage_sdk.cli.app import app
from moorage_sdk.client import Client
from moorage_sdk.errors import MoorageApiError, SdkError
from moorage_sdk.sharing import TrafficChange, parse_rings, parse_shadows

TENSOR = {"name": "x", "datatype": "FP32", "shape": [-1]}
NOW = Traffic(
    revision=7,
    arms=[
        TrafficArm(version=1, weight_bp=9000),
        TrafficArm(version=2, weight_bp=1000, role="candidate"),
        TrafficArm(version=3, weight_bp=500, role="shadow"),
    ],
    stickiness=Stickiness(by="header", name="x-user"),
    rings=[RingShare(ring="beta", version=2, weight_bp=5000)],
)


def arms(change: TrafficChange) -> list[tuple[int, int, str]]:
    return [(arm["version"], arm["weight_bp"], arm.get("role", "stable")) for arm in change.body(NOW)["arms"]]


def test_what_is_not_named_stays() -> None:
    body = TrafficChange(weights={1: 50, 2: 50}).body(NOW)
    assert (body["revision"], set(body)) == (7, {"arms", "revision"})
    assert arms(TrafficChange(weights={1: 50, 2: 50})) == [(1, 5000, "stable"), (2, 5000, "stable"), (3, 500, "shadow")]
    assert arms(TrafficChange(sticky="none")) == [(1, 9000, "stable"), (2, 1000, "candidate"), (3, 500, "shadow")]


def test_shadows_and_rings_are_set_taken_out_and_ended() -> None:
    assert arms(TrafficChange(shadows=[(4, 2.5)]))[2:] == [(3, 500, "shadow"), (4, 250, "shadow")]
    assert arms(TrafficChange(shadows=[(3, 0)]))[2:] == []
    assert arms(TrafficChange(shadows=[]))[2:] == []
    assert arms(TrafficChange(weights={3: 100})) == [(3, 10_000, "stable")], "it answers now"
    both = TrafficChange(rings=[("inside", 3, 100)]).body(NOW)["rings"]
    assert both == [
        {"ring": "beta", "version": 2, "weight_bp": 5000},
        {"ring": "inside", "version": 3, "weight_bp": 10_000},
    ]
    assert TrafficChange(rings=[("beta", 2, 0)]).body(NOW)["rings"] == []
    assert TrafficChange(rings=[]).body(NOW)["rings"] == []


def test_stickiness_is_set_ended_and_drawn_anew() -> None:
    assert TrafficChange(sticky="entity:account").body(NOW)["stickiness"] == {
        "by": "entity", "name": "account", "reshuffle": False,
    }  # fmt: skip
    assert TrafficChange(sticky="none").body(NOW)["stickiness"] is None
    again = TrafficChange(reshuffle=True).body(NOW)["stickiness"]
    assert again == {"by": "header", "name": "x-user", "reshuffle": True}
    with pytest.raises(SdkError, match="sticks to nothing"):
        TrafficChange(reshuffle=True).body(NOW.model_copy(update={"stickiness": None}))


@pytest.mark.parametrize("text", ["x-user", "cookie:x", "header:", "header", ""])
def test_what_is_no_stickiness_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(SdkError, match="such as header:x-user"):
        TrafficChange(sticky=text).body(NOW)


@given(st.text(max_size=12))
def test_shares_are_read_or_refused_with_an_example(text: str) -> None:
    for parse, example in ((parse_shadows, "such as 3=5"), (parse_rings, "such as beta:3=50")):
        refused = ""
        try:
            parse([text])
        except SdkError as error:
            refused = str(error)
        assert not refused or example in refused


def test_shares_as_people_write_them() -> None:
    assert parse_shadows(["3=5", "4=0.5"]) == [(3, 5.0), (4, 0.5)]
    assert parse_rings(["beta:3=50"]) == [("beta", 3, 50.0)]
    assert parse_shadows(["none"]) == parse_rings(["none"]) == []
    with pytest.raises(SdkError, match="not a percentage"):
        TrafficChange(shadows=[(3, 101)]).body(NOW)


@pytest.fixture
def command(registry: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("MOORAGE_PROFILE_FILE", str(tmp_path / "profiles.yaml"))
    for name, value in (
        ("REGISTRY", registry.url), ("ROUTER", "http://127.0.0.1:9"), ("API_KEY", registry.api_key),
    ):  # fmt: skip
        monkeypatch.setenv(f"MOORAGE_{name}", value)
    return CliRunner()


def said(command: CliRunner, *arguments: str) -> str:
    shown = command.invoke(app, list(arguments), catch_exceptions=False)
    assert shown.exit_code == 0, shown.output
    return shown.stdout


def deployed(client: Client, name: str, versions: int) -> None:
    for number in range(versions):
        content = f"{name} {number}".encode()
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        client.registry.upload_artifact(digest, content)
        signature = {"inputs": [TENSOR], "outputs": [TENSOR]}
        client.registry.create_version(name, {"artifact_digest": digest, "format": "onnx", "signature": signature})
    client.registry.put_deployment(name, {"versions": [{"version": n + 1} for n in range(versions)]})


def test_the_command_sets_all_of_the_traffic_and_shows_it(command: CliRunner, client: Client) -> None:
    deployed(client, "shared", 3)
    said(command, "rings", "set", "beta", "--header", "X-User", "--value", "ann", "--value", "bob")
    said(
        command, "traffic", "shared", "1=90", "2=10", "--sticky", "header:x-user", "--shadow", "3=5",
        "--ring", "beta:3=50",
    )  # fmt: skip
    shown = said(command, "traffic", "shared")
    assert shown == (
        "version\tpercent\trole\n1\t90\tstable\n2\t10\tstable\n3\t5\tshadow\n"
        "sticky by header x-user\n\nring\tversion\tpercent\nbeta\t3\t50\n\n"
        "shadow\tok\tfailed\tagreed\tdisagreed\tleft_out\tmodel_ms\tserved_model_ms\n3\t0\t0\t0\t0\t0\t\t\n"
    )
    told = json.loads(said(command, "traffic", "shared", "--sticky", "none", "--shadow", "none", "--json"))
    assert (told["stickiness"], [arm["version"] for arm in told["arms"]]) == (None, [1, 2])
    assert told["rings"] == [{"ring": "beta", "version": 3, "weight_bp": 5000}]
    client.set_traffic("shared", {1: 50, 2: 50})
    assert client.registry.traffic("shared").rings, "what is not named stays"


def test_the_command_makes_lists_and_deletes_rings(command: CliRunner, client: Client) -> None:
    kid = str(client.registry.whoami()["kid"])
    said(command, "rings", "set", "ours", "--key", kid)
    rows = json.loads(said(command, "rings", "list", "--json"))
    assert next(row["kids"] for row in rows if row["name"] == "ours") == [kid]
    said(command, "rings", "delete", "ours")
    assert "ours" not in said(command, "rings", "list")
    with pytest.raises(MoorageApiError, match="no key"):
        client.registry.put_ring("theirs", kids=[api_keys.mint().kid])
