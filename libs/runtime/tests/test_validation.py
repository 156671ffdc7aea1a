"""Validation says whether a version answers as the notebook saw, and by how much it does not."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import psutil
import pytest
import skops.io
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from moorage_common.contracts.desired import ValidationRun
from moorage_common.contracts.tensors import Signature, TensorSpec
from moorage_runtime import v2
from moorage_runtime.apart import Job, Validator
from moorage_runtime.artifacts import ArtifactCache
from moorage_runtime.libraries import libraries
from moorage_runtime.signature import example_answers, example_inputs, infer_signature
from moorage_runtime.validation import compare, run_validation
from moorage_runtime.versions import Versions

X, Y = load_iris(return_X_y=True)
ARRAY = {"y": np.array([[1.0, 2.0], [3.0, 4.0]])}


@pytest.mark.parametrize(
    ("got", "reason", "diff"),
    [
        (ARRAY["y"] * 1.0001, "", 4e-4),
        (ARRAY["y"] + [[0, 0], [0, 0.5]], r"1 of 4 values differ, by at most 0.5", 0.5),
        (ARRAY["y"].astype("f4"), "is FP32, expected FP64", 0),
        (ARRAY["y"][:1], r"has shape \[1, 2\], expected \[2, 2\]", 0),
        (np.full((2, 2), np.nan), "4 of 4 values differ", 0),
    ],
)
def test_a_difference_is_shown_with_its_size(got: v2.Array, reason: str, diff: float) -> None:
    found = compare(ARRAY, {"y": got}, rtol=1e-3, atol=1e-4)
    assert found.max_abs_diff == pytest.approx(diff)
    assert bool(found.reason) == bool(reason)
    assert re.search(reason, found.reason)


def test_labels_must_be_equal_and_the_first_difference_is_named() -> None:
    want = {"y": np.array(["a", "b", "c"], dtype=object)}
    found = compare(want, {"y": np.array(["a", "x", "z"], dtype=object)}, rtol=1, atol=1)
    assert found.reason == "output 'y': 2 of 3 values differ, first at [1]: 'x' instead of 'b'"
    assert "not among" in compare(want, {}, rtol=1, atol=1).reason
    assert not compare({"n": np.array([np.nan])}, {"n": np.array([np.nan])}, rtol=0, atol=0).reason


def _run(blobs: Any, shift: float = 0.0, **changes: Any) -> ValidationRun:
    model = LogisticRegression(max_iter=500).fit(X, Y)
    signature = infer_signature(model, X[:8])
    request = orjson.loads(v2.encode_request(example_inputs(signature, X[:8])).body)
    answers = example_answers(model, X[:8], signature)
    answers["predict_proba"] = answers["predict_proba"] + shift
    outputs = orjson.loads(
        v2.encode_response(v2.InferRequest({}), model_name="m", model_version="1", outputs=answers).body
    )["outputs"]
    examples = blobs.put(orjson.dumps({"examples": [{"request": request, "outputs": outputs}]}))
    ref = blobs.put(skops.io.dumps(model))
    fields = {"run_id": "r1", "load": blobs.spec(ref, "skops", signature), "examples": examples}
    return ValidationRun.model_validate({**fields, **changes})


def _validate(run: ValidationRun, tmp_path: Path) -> Any:
    cache = ArtifactCache(tmp_path / "cache")
    return run_validation(run, Versions("demo", cache), cache)


def test_a_version_that_answers_as_seen_passes(blobs: Any, tmp_path: Path) -> None:
    result = _validate(_run(blobs), tmp_path)
    assert (result.state, result.reason, result.max_abs_diff) == ("passed", "", 0.0)
    assert result.libraries == libraries("skops")


def test_a_version_that_answers_otherwise_is_rejected_and_the_libraries_are_named(blobs: Any, tmp_path: Path) -> None:
    result = _validate(_run(blobs, 0.25, libraries={"scikit-learn": "0.1", "numpy": "9"}), tmp_path)
    assert result.state == "rejected"
    assert "example 1 of 1: output 'predict_proba': 24 of 24 values differ, by at most 0.25" in result.reason
    assert "scikit-learn 0.1 there" in result.reason
    assert result.max_abs_diff == pytest.approx(0.25)


def test_a_version_without_examples_is_unchecked(blobs: Any, tmp_path: Path) -> None:
    assert _validate(_run(blobs, examples=None), tmp_path).state == "unchecked"


def test_another_tenants_version_is_rejected(blobs: Any, tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path / "cache")
    result = run_validation(_run(blobs), Versions("other", cache), cache)
    assert (result.state, "this host is tenant 'other'" in result.reason) == ("rejected", True)


def test_examples_that_cannot_be_read_reject(blobs: Any, tmp_path: Path) -> None:
    for text in (b"{}", b'{"examples": []}', b"no"):
        assert _validate(_run(blobs, examples=blobs.put(text)), tmp_path).state == "rejected"


def test_a_file_that_crashes_its_library_rejects_and_the_host_lives(blobs: Any, start_host: Any) -> None:
    signature = Signature(
        inputs=[TensorSpec(name="input", datatype="FP64", shape=[-1, 4])],
        outputs=[TensorSpec(name="predict", datatype="FP32", shape=[-1])],
    )
    deep = blobs.put(b'{"a":' * 3_000_000)
    run = ValidationRun(run_id="r1", load=blobs.spec(deep, "xgboost", signature))
    client = start_host()
    result = client.host.validate(run.model_dump_json())
    assert result["state"] == "rejected"
    assert "SIGSEGV" in result["reason"] or "SIGABRT" in result["reason"]
    assert client.http.get("/healthz").json() == {"live": True}


def test_a_validation_that_does_not_end_rejects(blobs: Any, tmp_path: Path) -> None:
    job = Job(tenant="demo", cache_dir=str(tmp_path / "cache"), run=_run(blobs))
    validator = Validator(timeout_s=0.01)
    assert "took longer than 0.01 s" in validator.validate(job).reason
    validator.close()


def test_the_process_that_has_the_library_stays_and_ends_with_the_host(blobs: Any, tmp_path: Path) -> None:
    job = Job(tenant="demo", cache_dir=str(tmp_path / "cache"), run=_run(blobs))
    validator, this = Validator(), psutil.Process()
    before = {child.pid for child in this.children()}
    assert validator.validate(job).state == "passed"
    stays = {child.pid for child in this.children()} - before
    assert len(stays) == 1
    for _again in range(3):
        assert validator.validate(job).state == "passed"
    assert {child.pid for child in this.children()} - before == stays
    validator.close()
    assert not {child.pid for child in this.children()} - before
    assert validator.validate(job).state == "passed"
    assert not {child.pid for child in this.children()} - before, "none stays any more"


def test_a_version_that_crashes_its_process_leaves_the_next_one_a_sound_one(blobs: Any, tmp_path: Path) -> None:
    signature = Signature(
        inputs=[TensorSpec(name="input", datatype="FP64", shape=[-1, 4])],
        outputs=[TensorSpec(name="predict", datatype="FP32", shape=[-1])],
    )
    deep = ValidationRun(run_id="r1", load=blobs.spec(blobs.put(b'{"a":' * 3_000_000), "xgboost", signature))
    validator = Validator()
    for _again in range(2):
        result = validator.validate(Job(tenant="demo", cache_dir=str(tmp_path / "cache"), run=deep))
        assert "crashes the process" in result.reason
    sound = Job(tenant="demo", cache_dir=str(tmp_path / "cache"), run=_run(blobs))
    assert validator.validate(sound).state == "passed"
    validator.close()
