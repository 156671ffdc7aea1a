"""Labels from Python and the command: what is sent, in which parts, and what comes back of each."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sdk_far_side import REQUEST_ID, FarSide
from sklearn.linear_model import LinearRegression
from test_cli import moorage
from typer.testing import CliRunner

from moorage_sdk import Answer, AsyncClient
from moorage_sdk.cli.app import app
from moorage_sdk.client import Client
from moorage_sdk.errors import MoorageApiError, SdkError
from moorage_sdk.feedback import FeedbackTaken
from moorage_sdk.spec import Json

Tell = Callable[..., FeedbackTaken]


@pytest.fixture(params=["blocking", "async"])
def tell(request: pytest.FixtureRequest) -> Tell:
    """`tell(url, answers, **label)` by either client."""

    def blocking(url: str, answers: Any, **said: Any) -> FeedbackTaken:
        with Client("", url, "key") as client:
            return client.feedback("double", answers, **said)

    def by_loop(url: str, answers: Any, **said: Any) -> FeedbackTaken:
        async def run() -> FeedbackTaken:
            async with AsyncClient(url, "key") as client:
                return await client.feedback("double", answers, **said)

        return asyncio.run(run())

    return blocking if request.param == "blocking" else by_loop


def sent(far: FarSide) -> list[Json]:
    assert {seen.path for seen in far.seen if seen.method == "POST"} <= {"/v2/models/double/feedback"}
    return [json.loads(seen.body) for seen in far.seen if seen.method == "POST"]


def test_an_answer_is_labelled_by_itself_or_by_its_request_id(far: FarSide, tell: Tell) -> None:
    answer = Answer({}, request_id=REQUEST_ID)
    assert tell(far.url, answer, label="fraud") == FeedbackTaken(accepted=1)
    tell(far.url, REQUEST_ID, correct=False)
    tell(far.url, REQUEST_ID, loss=0.5)
    tell(far.url, REQUEST_ID, label=False)
    assert sent(far) == [
        {"id": REQUEST_ID, **said} for said in ({"label": "fraud"}, {"correct": False}, {"loss": 0.5}, {"label": False})
    ]


def test_many_labels_go_a_thousand_at_a_time_and_a_refused_one_is_told_by_its_place(far: FarSide, tell: Tell) -> None:
    labels = [{"id": f"bad{place}" if place in (3, 2400) else f"{place}", "label": place} for place in range(2500)]
    taken = tell(far.url, labels)
    assert taken.accepted == 2498
    assert [(one.index, one.id, one.code) for one in taken.refused] == [
        (3, "bad3", "id_unknown"), (2400, "bad2400", "id_unknown"),
    ]  # fmt: skip
    assert [len(body["feedback"]) for body in sent(far)] == [1000, 1000, 500]
    assert [item["label"] for body in sent(far) for item in body["feedback"]] == list(range(2500))
    assert tell(far.url, iter([])) == FeedbackTaken()


def test_what_numpy_and_pandas_hold_is_sent_as_json_and_what_is_missing_is_left_out(far: FarSide, tell: Tell) -> None:
    table = pd.DataFrame(
        {
            "id": ["a", "b", "c"],
            "label": ["x", None, None],
            "loss": [np.nan, 0.5, np.nan],
            "correct": [None, None, True],
        }
    )
    tell(far.url, table)
    tell(far.url, [{"id": "d", "label": np.int64(3)}, {"id": "e", "label": np.bool_(True)}])
    tell(far.url, {"id": "f", "label": np.array([0.5], dtype="f4")})
    tell(far.url, "g", label=np.array([b"yes"], dtype=object)[0])
    assert sent(far) == [
        {"feedback": [{"id": "a", "label": "x"}, {"id": "b", "loss": 0.5}, {"id": "c", "correct": True}]},
        {"feedback": [{"id": "d", "label": 3}, {"id": "e", "label": True}]},
        {"id": "f", "label": 0.5},
        {"id": "g", "label": "yes"},
    ]


@pytest.mark.parametrize(
    ("answers", "said", "says"),
    [
        (REQUEST_ID, {}, "say what was right"),
        (Answer({}), {"label": 1}, "no request id"),
        ([{"id": "a", "label": 1}], {"label": 1}, "each brings its own"),
        (["a"], {}, "is no label"),
        (REQUEST_ID, {"label": float("inf")}, "a finite number"),
        (REQUEST_ID, {"label": {1, 2}}, "a label is a string"),
        (REQUEST_ID, {"label": b"\xff"}, "UTF-8"),
    ],
)
def test_a_label_of_no_form_is_refused_before_anything_is_sent(
    far: FarSide, tell: Tell, answers: Any, said: Json, says: str
) -> None:
    with pytest.raises(SdkError, match=says):
        tell(far.url, answers, **said)
    assert sent(far) == []


def test_a_lost_connection_or_a_bus_that_is_away_is_tried_again_since_a_second_label_is_none(
    far: FarSide, tell: Tell
) -> None:
    far.refusals.extend([(503, {"retry-after": "0"}), (502, {})])
    assert tell(far.url, "a", label=1).accepted == 1
    assert sent(far) == [{"id": "a", "label": 1}] * 3


def test_where_no_label_of_a_call_is_good_it_is_an_error(far: FarSide, tell: Tell) -> None:
    with pytest.raises(MoorageApiError) as caught:
        tell(far.url, "bad", label=1)
    assert (caught.value.status, caught.value.code) == (422, "feedback_refused")


LABELS = {
    "labels.csv": "id,label,correct,loss\na,x,,\nb,,false,\nc,,,0.5\nd,3,,\n",
    "labels.jsonl": '{"id": "a", "label": "x"}\n{"id": "b", "correct": false}\n\n{"id": "c", "loss": 0.5}\n'
    '{"id": "d", "label": "3"}\n',
    "labels.json": '[{"id": "a", "label": "x"}, {"id": "b", "correct": false}, {"id": "c", "loss": 0.5},'
    ' {"id": "d", "label": "3"}]',
    "one.json": '{"feedback": [{"id": "a", "label": "x"}, {"id": "b", "correct": false}, {"id": "c", "loss": 0.5},'
    ' {"id": "d", "label": "3"}]}',
}


@pytest.mark.parametrize("name", LABELS)
def test_the_command_sends_a_file_of_labels(far: FarSide, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(LABELS[name])
    shown = run(far, "feedback", "double", str(tmp_path / name))
    assert (shown.exit_code, shown.stdout) == (0, "4 accepted, 0 refused\n")
    assert sent(far) == [
        {
            "feedback": [
                {"id": "a", "label": "x"}, {"id": "b", "correct": False}, {"id": "c", "loss": 0.5},
                {"id": "d", "label": "3"},
            ]
        }
    ]  # fmt: skip


def run(far: FarSide, *arguments: str, stdin: str = "") -> Any:
    environment = {"MOORAGE_ROUTER": far.url, "MOORAGE_API_KEY": "key", "MOORAGE_REGISTRY": far.url}
    return CliRunner().invoke(app, list(arguments), env=environment, input=stdin)


def test_the_command_labels_one_answer_or_what_comes_on_stdin(far: FarSide) -> None:
    assert run(far, "feedback", "double", "--id", "a", "--label", "x").exit_code == 0
    assert run(far, "feedback", "double", "--id", "a", "--wrong").exit_code == 0
    shown = run(far, "feedback", "double", "-", "--json", stdin='{"id": "b", "correct": true}\n')
    assert json.loads(shown.stdout) == {"accepted": 1, "refused": []}
    assert sent(far) == [{"id": "a", "label": "x"}, {"id": "a", "correct": False}, {"id": "b", "correct": True}]


def test_the_command_fails_where_labels_were_refused_or_cannot_be_read(far: FarSide, tmp_path: Path) -> None:
    (tmp_path / "some.jsonl").write_text('{"id": "a", "label": 1}\n{"id": "bad", "label": 1}\n')
    (tmp_path / "bad.csv").write_text("id,correct\na,maybe\n")
    (tmp_path / "list.json").write_text("[1]")
    refused = run(far, "feedback", "double", str(tmp_path / "some.jsonl"))
    assert "number 1, bad: no such (id_unknown)" in refused.stdout
    assert isinstance(refused.exception, SdkError)
    for name in ("bad.csv", "list.json", "absent.csv"):
        failed = run(far, "feedback", "double", str(tmp_path / name))
        assert isinstance(failed.exception, SdkError), name
    assert isinstance(run(far, "feedback", "double", "--label", "x").exception, SdkError)
    failed = moorage("feedback", "double", "--label", "x", home=tmp_path)
    assert failed.returncode == 1
    assert "--id" in failed.stderr or "MOORAGE_REGISTRY" in failed.stderr


def test_what_labels_say_of_the_versions_is_asked_of_the_registry(registry: Any, client: Client) -> None:
    with pytest.raises(MoorageApiError) as caught:
        client.registry.feedback("nothing-here")
    assert caught.value.status == 404
    model = LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0])
    client.push(model, name="labelled", example=[[0.5]], wait=False)
    client.registry.put_deployment("labelled", {"versions": [{"version": 1}], "feedback": {"tolerance": 0.5}})
    status = client.registry.feedback("labelled")
    assert (status.outputs, status.settled, status.versions, status.delay_s) == (0, 0, [], None)
    environment = {"MOORAGE_ROUTER": "", "MOORAGE_API_KEY": registry.api_key, "MOORAGE_REGISTRY": registry.url}
    shown = CliRunner().invoke(app, ["feedback", "labelled"], env=environment)
    assert "0 answers kept, 0 labels settled, 0 wait for their answer, 0 have lost it" in shown.stdout
    shown = CliRunner().invoke(app, ["feedback", "labelled", "--json"], env=environment)
    assert json.loads(shown.stdout)["model"] == "labelled"
