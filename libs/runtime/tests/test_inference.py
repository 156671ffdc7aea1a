"""What a host refuses and what it tells of an answer, without HTTP."""

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import skops.io
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from moorage_common.errors import MoorageError, TooLarge, Unavailable
from moorage_runtime import v2
from moorage_runtime.artifacts import ArtifactCache
from moorage_runtime.inference import Answer, Inference, output_state
from moorage_runtime.limits import Limits
from moorage_runtime.signature import infer_signature
from moorage_runtime.versions import Versions

X, Y = load_iris(return_X_y=True)
MODEL = LogisticRegression(max_iter=500).fit(X, Y)


@pytest.fixture
def inference(blobs: Any, tmp_path: Path) -> Any:
    def with_limits(**limits: Any) -> Inference:
        versions = Versions("demo", ArtifactCache(tmp_path / "cache"), Limits(**limits))
        spec = blobs.spec(blobs.put(skops.io.dumps(MODEL)), "skops", infer_signature(MODEL, X[:4]))
        assert versions.load(spec).state == "ready"
        return Inference(versions, Limits(**limits))

    return with_limits


async def _ask(inference: Inference, rows: v2.Array, *, binary: bool = False) -> Answer:
    sent = v2.encode_request({"input": rows}, binary=binary)
    return await inference.answer("m", 1, sent.body, sent.headers.get(v2.HEADER_LENGTH), time.monotonic() + 20)


async def test_each_of_many_callers_at_once_gets_the_answers_to_their_own_rows(inference: Any) -> None:
    door = inference()
    for binary in (False, True):
        answers = await asyncio.gather(*[_ask(door, X[i : i + 1 + i % 3], binary=binary) for i in range(140)])
        for i, answer in enumerate(answers):
            response = v2.decode_response(answer.encoded.body, answer.encoded.headers.get(v2.HEADER_LENGTH))
            expected = X[i : i + 1 + i % 3]
            np.testing.assert_array_equal(response.outputs["predict"], MODEL.predict(expected))
            np.testing.assert_allclose(response.outputs["predict_proba"], MODEL.predict_proba(expected), rtol=1e-12)
            assert (answer.rows, answer.state) == (len(expected), "ok")
            assert answer.batch_rows >= answer.rows
            assert answer.queue_us >= 0


async def test_a_host_that_answers_enough_requests_refuses_more_and_recovers(inference: Any) -> None:
    door = inference(max_concurrent=3)
    answers = await asyncio.gather(*[_ask(door, X[:1]) for _ in range(5)], return_exceptions=True)
    refused = [a for a in answers if isinstance(a, MoorageError)]
    assert [(type(e), e.code, e.retry_after_s) for e in refused] == [(Unavailable, "host_busy", 1)] * 2
    assert (await _ask(door, X[:1])).rows == 1


async def test_cancelled_requests_free_their_place(inference: Any) -> None:
    door = inference(max_concurrent=1)
    task = asyncio.create_task(_ask(door, X[:1]))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert (await _ask(door, X[:1])).rows == 1


async def test_a_request_of_too_many_rows_is_refused(inference: Any) -> None:
    door = inference(max_rows=100)
    assert (await _ask(door, X[:100])).rows == 100
    with pytest.raises(TooLarge) as caught:
        await _ask(door, X[:101])
    assert caught.value.code == "too_many_rows"


async def test_tensors_larger_than_the_hosts_largest_request_are_refused(inference: Any) -> None:
    door = inference(max_body_bytes=1000)
    small = {"inputs": [{"name": "input", "datatype": "FP64", "shape": [30, 4], "data": [1] * 120}]}
    large = {"inputs": [{"name": "input", "datatype": "FP64", "shape": [40, 4], "data": [1] * 160}]}
    assert (await door.answer("m", 1, orjson.dumps(small), None, time.monotonic() + 20)).rows == 30
    with pytest.raises(TooLarge, match="more than 1000 bytes decoded"):
        await door.answer("m", 1, orjson.dumps(large), None, time.monotonic() + 20)


def test_the_state_of_an_output_tells_nan_and_constant_apart_from_ok() -> None:
    rows = np.arange(40.0).reshape(20, 2)
    same, nan = np.ones((20, 1)), np.full((20, 1), np.nan)
    assert output_state({"x": rows}, {"y": rows}, 20, finite=True) == "ok"
    assert output_state({"x": rows}, {"y": same}, 20, finite=True) == "constant"
    assert output_state({"x": rows}, {"y": nan}, 20, finite=False) == "nan"
    assert output_state({"x": rows[:1]}, {"y": same[:1]}, 1, finite=True) == "ok"
    assert output_state({"x": same}, {"y": same}, 20, finite=True) == "ok"
