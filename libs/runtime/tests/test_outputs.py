"""Compact outputs: what is kept of an answer, for every kind of output, and only where it was asked for."""

import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import numpy as np
import orjson
import pytest
import skops.io
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from moorage_common.contracts import host_calls, host_frames
from moorage_common.contracts.feedback import OUTPUT_BYTES, Output, decode_output
from moorage_common.contracts.tensors import Datatype, Signature, TensorSpec
from moorage_runtime import v2
from moorage_runtime.outputs import compact_output, kept_output
from moorage_runtime.signature import infer_signature

sys.path.append(str(Path(__file__).parent))
from frames_harness import HEAD, linked

X, Y = load_iris(return_X_y=True)
NAMES = np.array(["setosa", "versicolor", "größte"])[Y]
MODEL = LogisticRegression(max_iter=500).fit(X, NAMES)
SIGNATURE = infer_signature(MODEL, X[:4])
ROW = X[100:101]


def _signature(datatype: Datatype, shape: list[int], *, batchable: bool = True, **more: Any) -> Signature:
    return Signature(
        inputs=[], outputs=[TensorSpec(name="y", datatype=datatype, shape=shape, **more)], batchable=batchable
    )


def _class(value: str) -> Output:
    return Output(kind="class", value=value)


def _number(value: float) -> Output:
    return Output(kind="number", value=repr(value))


def _objects(*values: Any) -> v2.Array:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


@pytest.mark.parametrize(
    ("array", "kept"),
    [
        (np.array([3, 4], dtype="i8"), _class("3")),
        (np.array([2**64 - 1], dtype="u8"), _class("18446744073709551615")),
        (np.array([[3], [4]], dtype="i4"), _class("3")),
        (np.array([True, False]), _class("true")),
        (np.array([0.25, 1.0]), _number(0.25)),
        (np.array([[0.5]], dtype="f4"), _number(0.5)),
        (np.array([0.1], dtype="f4"), _number(float(np.float32(0.1)))),
        (np.array([[0.1, 0.7, 0.2], [1, 0, 0]]), _class("1")),
        (np.array([[0.1, 0.2]], dtype="f2"), _class("1")),
        (_objects(b"spam", b"ham"), _class("spam")),
        (_objects("spam"), _class("spam")),
        (_objects("größte".encode()), _class("größte")),
        (np.array(["spam", "ham"]), _class("spam")),
        (_objects(b"a" * OUTPUT_BYTES), _class("a" * OUTPUT_BYTES)),
        (_objects(b"a" * (OUTPUT_BYTES + 1)), None),
        (_objects(b"\xff\xfe"), None),
        (_objects("\ud800"), None),
        (np.array([np.nan]), None),
        (np.array([-np.inf]), None),
        (np.array([[0.1, np.nan, 0.2]]), None),
        (np.array([[1, 0, 1]]), None),
        (np.zeros((1, 2, 2)), None),
        (np.zeros((1, 0)), None),
    ],
)
def test_the_first_rows_class_or_number_is_kept(array: v2.Array, kept: Output | None) -> None:
    signature = _signature("FP64", [-1])
    assert compact_output(signature, signature.outputs[0], array) == kept


def test_the_largest_probability_is_told_by_its_label_where_the_signature_has_labels() -> None:
    signature = _signature("FP64", [-1, 3], labels=["a", "b", "c"])
    assert compact_output(signature, signature.outputs[0], np.array([[0.1, 0.2, 0.7]])) == _class("c")
    two = _signature("FP64", [-1, 3], labels=["a", "b"])
    assert compact_output(two, two.outputs[0], np.array([[0.1, 0.2, 0.7]])) == _class("2")


def test_an_answer_that_does_not_batch_is_one_row() -> None:
    signature = _signature("FP32", [3], batchable=False)
    assert compact_output(signature, signature.outputs[0], np.array([0.1, 0.8, 0.1])) == _class("1")
    scalar = _signature("FP32", [], batchable=False)
    assert compact_output(scalar, scalar.outputs[0], np.array(0.5)) == _number(0.5)


def test_an_output_is_found_by_its_name_and_1_is_the_first_unless_an_output_is_called_so() -> None:
    assert kept_output(SIGNATURE, "predict_proba") == SIGNATURE.outputs[1]
    assert kept_output(SIGNATURE, host_calls.FIRST) == SIGNATURE.outputs[0]
    assert kept_output(SIGNATURE, "nope") is None
    odd = Signature(inputs=[], outputs=[TensorSpec(name=n, datatype="FP32", shape=[-1]) for n in ("0", "1")])
    assert kept_output(odd, host_calls.FIRST) == odd.outputs[1]
    assert kept_output(Signature(inputs=[], outputs=[]), host_calls.FIRST) is None


def test_keeping_a_class_among_a_thousand_takes_microseconds() -> None:
    signature = _signature("FP32", [-1, 1000])
    array = np.random.default_rng(1).random((8, 1000), dtype="f4")
    since = time.process_time()
    for _ in range(1000):
        compact_output(signature, signature.outputs[0], array)
    assert (time.process_time() - since) / 1000 < 100e-6


@pytest.fixture
def client(blobs: Any, start_host: Any) -> Any:
    return start_host(blobs.spec(blobs.put(skops.io.dumps(MODEL)), "skops", SIGNATURE))


def _body(**more: Any) -> bytes:
    return v2.encode_request({"input": ROW}, **more).body


def _kept(answer: Any) -> Output | None:
    assert answer.status_code == 200, answer.text
    return decode_output(unquote_to_bytes(answer.headers[host_calls.OUT_COMPACT]))


def test_over_http_the_output_is_a_header_that_is_there_only_when_asked_for(client: Any) -> None:
    assert host_calls.OUT_COMPACT not in client.infer(_body()).headers
    assert _kept(client.infer(_body(), {host_calls.COMPACT: "1"})) == _class("größte")
    assert _kept(client.infer(_body(), {host_calls.COMPACT: "predict_proba"})) == _class("0")
    for asked in ("nope", "%ff", ""):
        answer = client.infer(_body(), {host_calls.COMPACT: asked})
        assert (answer.status_code, host_calls.OUT_COMPACT in answer.headers) == (200, False)


def test_what_is_kept_does_not_depend_on_what_the_caller_asks_for_nor_the_answer_on_what_is_kept(client: Any) -> None:
    body = _body(outputs=["predict_proba"])
    answer = client.infer(body, {host_calls.COMPACT: quote("predict")})
    assert _kept(answer) == _class("größte")
    assert [output["name"] for output in answer.json()["outputs"]] == ["predict_proba"]
    assert answer.json() == client.infer(body).json()


def test_a_refused_request_has_no_output(client: Any) -> None:
    answer = client.infer(b"{}", {host_calls.COMPACT: "1"})
    assert (answer.status_code, host_calls.OUT_COMPACT in answer.headers) == (400, False)


async def test_in_frames_the_output_comes_only_when_asked_for(client: Any) -> None:
    async with linked(client.identity["address"], client.identity["token"]) as peer:
        asking = HEAD + f"{host_calls.COMPACT}: predict\r\n".encode()
        peer.call(1, _body())
        peer.call(2, _body(), head=asking)
        peer.call(3, b"{}", head=asking)
        answers = await peer.answers(3)
    assert [(answers[n].status, answers[n].output) for n in (1, 2, 3)] == [
        (200, b""), (200, b"c" + "größte".encode()), (400, b""),
    ]  # fmt: skip
    assert orjson.loads(answers[1].body) == orjson.loads(answers[2].body)


async def test_an_answer_too_long_for_a_frame_gives_its_output_with_the_announcement(client: Any) -> None:
    tensor = {"name": "input", "datatype": "FP64", "shape": [8000, 4], "data": [6, 3, 6, 2] * 8000}
    async with linked(client.identity["address"], client.identity["token"]) as peer:
        peer.call(1, orjson.dumps({"inputs": [tensor]}), head=HEAD + f"{host_calls.COMPACT}: 1\r\n".encode())
        answer = await peer.answer()
    assert answer.fields.startswith(host_frames.ANSWER_AT.encode())
    assert (answer.status, answer.rows, answer.output) == (200, 8000, b"c" + "größte".encode())
