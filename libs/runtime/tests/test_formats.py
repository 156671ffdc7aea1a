"""Each format answers exactly what the library answers in a notebook, after a push-like round trip."""

import io
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import onnx
import pandas as pd
import pytest
import skops.io
import xgboost
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.ensemble import IsolationForest, RandomForestClassifier
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC

from moorage_common.contracts.desired import ArtifactRef, LoadSpec
from moorage_common.contracts.tensors import Signature, TensorSpec
from moorage_common.errors import BadRequest, Unprocessable
from moorage_runtime import v2
from moorage_runtime.conform import conform
from moorage_runtime.formats import Model, load_model
from moorage_runtime.formats.skops import untrusted_types
from moorage_runtime.signature import example_answers, example_inputs, format_of, infer_signature

IRIS_X, IRIS_Y = load_iris(return_X_y=True)
CANCER_X, CANCER_Y = load_breast_cancer(return_X_y=True)
SUGAR_X, SUGAR_Y = load_diabetes(return_X_y=True)
SPECIES = np.array(["setosa", "versicolor", "virginica"])[IRIS_Y]


def _spec(model_format: str, signature: Signature) -> LoadSpec:
    ref = ArtifactRef(digest="sha256:" + "0" * 64, size_bytes=1)
    return LoadSpec(tenant="demo", model="m", version=1, format=model_format, artifact=ref, signature=signature)  # type: ignore[arg-type]


def _save(model: Any, path: Path) -> Path:
    match format_of(model):
        case "skops":
            skops.io.dump(model, path)
        case "xgboost":
            booster = model.get_booster() if hasattr(model, "get_booster") else model
            path.write_bytes(booster.save_raw("ubj"))
        case "lightgbm":
            path.write_text((model.booster_ if hasattr(model, "booster_") else model).model_to_string())
        case _:
            return Path(model)
    return path


def _pushed(model: Any, example: Any, path: Path) -> tuple[Signature, Model]:
    signature = infer_signature(model, example)
    return signature, load_model(_save(model, path), _spec(format_of(model), signature))


def _answers(signature: Signature, loaded: Model, example: Any) -> dict[str, v2.Array]:
    """As a host does it: over the wire's form, held against the signature."""
    encoded = v2.encode_request(example_inputs(signature, example))
    request = v2.decode_request(encoded.body, encoded.headers.get(v2.HEADER_LENGTH))
    inputs, _rows = conform(signature, request.inputs)
    return loaded.predict(inputs, [o.name for o in signature.outputs])


ESTIMATORS: dict[str, tuple[Callable[[], Any], Any, Any, list[str]]] = {
    "linear regression": (LinearRegression, SUGAR_X, SUGAR_Y, ["predict"]),
    "logistic regression": (lambda: LogisticRegression(max_iter=500), IRIS_X, IRIS_Y, ["predict", "predict_proba"]),
    "string labels": (lambda: LogisticRegression(max_iter=500), IRIS_X, SPECIES, ["predict", "predict_proba"]),
    "forest with a pool": (
        lambda: RandomForestClassifier(5, n_jobs=-1, random_state=0), IRIS_X, IRIS_Y, ["predict", "predict_proba"]
    ),
    "without probabilities": (LinearSVC, IRIS_X, IRIS_Y, ["predict", "decision_function"]),
    "outliers": (
        lambda: IsolationForest(n_estimators=10, random_state=0), IRIS_X, None,
        ["predict", "decision_function", "score_samples"],
    ),
    "transformer": (StandardScaler, IRIS_X, None, ["transform"]),
    "boosters in a pipeline": (
        lambda: make_pipeline(StandardScaler(), xgboost.XGBClassifier(n_estimators=3)),
        IRIS_X, IRIS_Y, ["predict", "predict_proba"],
    ),
    "xgboost, three classes": (
        lambda: xgboost.XGBClassifier(n_estimators=5), IRIS_X, IRIS_Y, ["predict", "predict_proba"]
    ),
    "xgboost, two classes": (
        lambda: xgboost.XGBClassifier(n_estimators=5), CANCER_X, CANCER_Y, ["predict", "predict_proba"]
    ),
    "xgboost regression": (lambda: xgboost.XGBRegressor(n_estimators=5), SUGAR_X, SUGAR_Y, ["predict"]),
    "xgboost linear": (
        lambda: xgboost.XGBRegressor(booster="gblinear", n_estimators=5), SUGAR_X, SUGAR_Y, ["predict"]
    ),
    "lightgbm, three classes": (
        lambda: lightgbm.LGBMClassifier(n_estimators=5, verbose=-1), IRIS_X, IRIS_Y, ["predict", "predict_proba"]
    ),
    "lightgbm, string labels": (
        lambda: lightgbm.LGBMClassifier(n_estimators=5, verbose=-1), IRIS_X, SPECIES, ["predict", "predict_proba"]
    ),
    "lightgbm, labels 1 and 2": (
        lambda: lightgbm.LGBMClassifier(n_estimators=5, verbose=-1), CANCER_X, CANCER_Y + 1,
        ["predict", "predict_proba"],
    ),
    "lightgbm regression": (lambda: lightgbm.LGBMRegressor(n_estimators=5, verbose=-1), SUGAR_X, SUGAR_Y, ["predict"]),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:The parameter 'updater'", "ignore:X does not have valid feature names:UserWarning")
@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimator_answers_on_a_host_as_in_the_notebook(name: str, tmp_path: Path) -> None:
    make, x, y, outputs = ESTIMATORS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator = make().fit(x, y) if y is not None else make().fit(x)
    signature, loaded = _pushed(estimator, x[:40], tmp_path / "model")
    assert [o.name for o in signature.outputs] == outputs
    got = _answers(signature, loaded, x[:40])
    for output, expected in example_answers(estimator, x[:40], signature).items():
        np.testing.assert_array_equal(v2.canonical(got[output]), expected)
        assert v2.datatype_of(got[output]) == v2.datatype_of(expected)
    for output in outputs:
        np.testing.assert_array_equal(
            v2.canonical(np.asarray(getattr(estimator, output)(x[:40]))), v2.canonical(got[output])
        )


def test_early_stopping_answers_with_the_best_round(tmp_path: Path) -> None:
    model = xgboost.XGBRegressor(n_estimators=200, early_stopping_rounds=2, learning_rate=0.9)
    model.fit(SUGAR_X[:200], SUGAR_Y[:200], eval_set=[(SUGAR_X[200:], SUGAR_Y[200:])], verbose=False)
    assert model.best_iteration + 1 < model.get_booster().num_boosted_rounds()
    signature, loaded = _pushed(model, SUGAR_X[:5], tmp_path / "model")
    np.testing.assert_array_equal(_answers(signature, loaded, SUGAR_X)["predict"], model.predict(SUGAR_X))


def test_bare_boosters_answer_their_own_numbers(tmp_path: Path) -> None:
    one = xgboost.train({"objective": "binary:logistic"}, xgboost.DMatrix(CANCER_X, CANCER_Y), 3)
    signature, loaded = _pushed(one, CANCER_X[:5], tmp_path / "x")
    np.testing.assert_allclose(
        _answers(signature, loaded, CANCER_X)["predict"], one.predict(xgboost.DMatrix(CANCER_X)), rtol=1e-6
    )
    two = lightgbm.train({"objective": "binary", "verbose": -1}, lightgbm.Dataset(CANCER_X, CANCER_Y), 3)
    signature, loaded = _pushed(two, CANCER_X[:5], tmp_path / "l")
    np.testing.assert_array_equal(_answers(signature, loaded, CANCER_X)["predict"], two.predict(CANCER_X))


def test_missing_values_reach_the_model_through_binary_data(tmp_path: Path) -> None:
    x = SUGAR_X.copy()
    x[::3, 2] = np.nan
    model = xgboost.XGBRegressor(n_estimators=5).fit(x, SUGAR_Y)
    signature, loaded = _pushed(model, x[:5], tmp_path / "model")
    np.testing.assert_array_equal(_answers(signature, loaded, x)["predict"], model.predict(x))


def _people() -> tuple[pd.DataFrame, np.ndarray[Any, Any]]:
    ages = np.arange(20, 60)
    frame = pd.DataFrame(
        {
            "age": ages,
            "city": np.array(["ulm", "graz", "köln", "bern"])[ages % 4],
            "owns": ages % 3 == 0,
            "pay": ages / 7,
        }
    )
    return frame, (ages % 2).astype(np.int64)


def test_a_pipeline_on_a_mixed_frame_takes_one_named_input_a_column(tmp_path: Path) -> None:
    frame, y = _people()
    columns = ColumnTransformer([("n", StandardScaler(), ["age", "pay"]), ("c", OneHotEncoder(), ["city"])])
    model = make_pipeline(columns, LogisticRegression()).fit(frame, y)
    signature, loaded = _pushed(model, frame[:8], tmp_path / "model")
    assert [(i.name, i.datatype, i.shape) for i in signature.inputs] == [
        ("age", "INT64", [-1]), ("city", "BYTES", [-1]), ("owns", "BOOL", [-1]), ("pay", "FP64", [-1]),
    ]  # fmt: skip
    got = _answers(signature, loaded, frame)
    np.testing.assert_array_equal(got["predict_proba"], model.predict_proba(frame))


def test_a_numeric_frame_is_one_tensor_with_columns(tmp_path: Path) -> None:
    frame = pd.DataFrame({"b": SUGAR_X[:, 0], "a": SUGAR_X[:, 1], "n": np.arange(len(SUGAR_X))})
    for model in (LinearRegression(), xgboost.XGBRegressor(n_estimators=3), lightgbm.LGBMRegressor(verbose=-1)):
        fitted = model.fit(frame, SUGAR_Y)
        signature, loaded = _pushed(fitted, frame[:8], tmp_path / "model")
        assert signature.inputs[0].columns == ["b", "a", "n"]
        np.testing.assert_array_equal(_answers(signature, loaded, frame)["predict"], fitted.predict(frame))


def test_a_text_pipeline_takes_strings(tmp_path: Path) -> None:
    texts = ["good day", "bad day", "good night", "bad night"] * 3
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, [1, 0, 1, 0] * 3)
    signature, loaded = _pushed(model, texts, tmp_path / "model")
    got = _answers(signature, loaded, np.array(["good", "bad", "ünknown"]))
    np.testing.assert_array_equal(got["predict"], [1, 0, model.predict(["ünknown"])[0]])


def test_frames_that_v2_cannot_carry_are_refused_at_push() -> None:
    frame = pd.DataFrame({"city": ["ulm", None], "pay": [1.0, 2.0]})
    with pytest.raises(Unprocessable, match="column 'city' holds NoneType, str"):
        infer_signature(FunctionTransformer(), frame)
    with pytest.raises(Unprocessable, match=r"X\[:8\]"):
        infer_signature(LinearRegression().fit(SUGAR_X, SUGAR_Y), SUGAR_X[0])


def test_onnx_of_scikit_learn_answers_as_scikit_learn(tmp_path: Path) -> None:
    model = LogisticRegression(max_iter=500).fit(IRIS_X, IRIS_Y)
    path = tmp_path / "m.onnx"
    path.write_bytes(to_onnx(model, IRIS_X[:1].astype(np.float32), options={"zipmap": False}).SerializeToString())
    signature, loaded = _pushed(path, None, path)
    assert signature.batchable
    got = _answers(signature, loaded, IRIS_X)
    np.testing.assert_array_equal(got["label"], model.predict(IRIS_X))
    np.testing.assert_allclose(got["probabilities"], model.predict_proba(IRIS_X), atol=1e-5)


def test_onnx_zipmap_is_refused_with_the_way_out(tmp_path: Path) -> None:
    model = LogisticRegression(max_iter=500).fit(IRIS_X, IRIS_Y)
    path = tmp_path / "m.onnx"
    path.write_bytes(to_onnx(model, IRIS_X[:1].astype(np.float32)).SerializeToString())
    with pytest.raises(Unprocessable, match="zipmap"):
        infer_signature(path)


def test_a_real_network_answers_as_its_own_library(tmp_path: Path) -> None:
    magika = pytest.importorskip("magika")
    path = next(Path(magika.__file__).parent.rglob("model.onnx"))
    signature, loaded = _pushed(path, None, path)
    assert [i.shape for i in signature.inputs] == [[-1, 2048]]
    tokens = np.full((3, 2048), 256, dtype=np.int32)
    tokens[1, :20] = np.frombuffer(b"#!/bin/bash\necho 123", dtype=np.uint8)
    got = _answers(signature, loaded, tokens)[signature.outputs[0].name]
    assert got.shape[0] == 3
    np.testing.assert_allclose(got.sum(axis=1), 1, atol=1e-4)


def _strings_graph() -> bytes:
    node = helper.make_node("Identity", ["s"], ["t"])
    ends = [helper.make_tensor_value_info(name, TensorProto.STRING, ["n"]) for name in "st"]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:])
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )


def test_onnx_strings_go_in_and_out(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(_strings_graph())
    signature, loaded = _pushed(path, None, path)
    got = _answers(signature, loaded, np.array(["a", "é"]))
    assert v2.canonical(got["t"]).tolist() == [b"a", "é".encode()]


def test_onnx_cannot_read_a_neighbour_as_its_weights(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    own = tmp_path / "own"
    own.mkdir()
    for location in ("../secret", str(tmp_path / "secret")):
        weights = helper.make_tensor("w", TensorProto.FLOAT, [4], np.zeros(4, dtype=np.float32).tobytes(), raw=True)
        onnx.external_data_helper.set_external_data(weights, location=location)
        weights.data_location = TensorProto.EXTERNAL
        weights.ClearField("raw_data")
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy"]
        graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weights])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        path = own / "blob"
        path.write_bytes(model.SerializeToString())
        with pytest.raises(Unprocessable, match=r"escapes|absolute|external"):
            infer_signature(path)


def _any_spec(model_format: str) -> LoadSpec:
    return _spec(model_format, infer_signature(LinearRegression().fit(SUGAR_X, SUGAR_Y), SUGAR_X[:2]))


@pytest.mark.parametrize("model_format", ["onnx", "skops", "xgboost", "lightgbm"])
@pytest.mark.parametrize("compress", [None, 3])
def test_pickles_are_refused_with_the_way_out(model_format: str, compress: int | None, tmp_path: Path) -> None:
    path = tmp_path / "m"
    if compress is None:
        path.write_bytes(pickle.dumps(LinearRegression().fit(SUGAR_X, SUGAR_Y)))
    else:
        joblib.dump(LinearRegression(), path, compress=compress)
    with pytest.raises(Unprocessable, match="skops") as caught:
        load_model(path, _any_spec(model_format))
    assert caught.value.code == "pickle_refused"


@pytest.mark.parametrize("model_format", ["onnx", "skops", "xgboost", "lightgbm", "ray-serve"])
@pytest.mark.parametrize("blob", [b"", b"garbage" * 50, b"{}", b"tree\n", b"PK\x03\x04", b"{" * 3000])
def test_garbage_is_refused_not_loaded(model_format: str, blob: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(blob)
    with pytest.raises(Unprocessable):
        load_model(path, _any_spec(model_format))


class Strange(LinearRegression):  # type: ignore[misc]
    """A type of the pusher's own."""


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (Strange(), "Strange"),
        (FunctionTransformer(Path.read_text), "read_text"),
        (FunctionTransformer(np.load), "numpy.load"),
        (FunctionTransformer(eval), "builtins.eval"),
    ],
)
def test_untrusted_types_are_refused_by_name(model: Any, name: str, tmp_path: Path) -> None:
    path = tmp_path / "m"
    skops.io.dump(model, path)
    assert any(name in found for found in untrusted_types(path))
    with pytest.raises(Unprocessable, match=name) as caught:
        load_model(path, _any_spec("skops"))
    assert caught.value.code == "untrusted_types"


def test_a_vectorizer_that_opens_files_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one two")
    model = make_pipeline(CountVectorizer(input="filename"), LogisticRegression()).fit([str(file)] * 2, [0, 1])
    skops.io.dump(model, tmp_path / "m")
    signature = infer_signature(model, [str(file)] * 2)
    with pytest.raises(Unprocessable, match="reads files"):
        load_model(tmp_path / "m", _spec("skops", signature))


def test_a_vectorizer_that_opens_files_is_found_wherever_it_hides(tmp_path: Path) -> None:
    hidden = CountVectorizer(input="filename", vocabulary=["one"])
    in_a_set = FeatureUnion([("a", CountVectorizer(vocabulary=["one"]))]).fit(["one"])
    in_a_set.transformer_list = {("a", hidden)}
    in_a_wrapper = CalibratedClassifierCV(LogisticRegression(), cv=2).fit(np.eye(4), [0, 1, 0, 1])
    in_a_wrapper.calibrated_classifiers_[0].estimator = make_pipeline(hidden, LogisticRegression())
    for model, output in ((in_a_set, "transform"), (in_a_wrapper, "predict_proba")):
        skops.io.dump(model, tmp_path / "m")
        signature = Signature(
            inputs=[TensorSpec(name="input", datatype="BYTES", shape=[-1])],
            outputs=[TensorSpec(name=output, datatype="FP64", shape=[-1, 1])],
        )
        with pytest.raises(Unprocessable, match="reads files"):
            load_model(tmp_path / "m", _spec("skops", signature))


def test_an_archive_that_unpacks_beyond_the_cap_is_refused(tmp_path: Path) -> None:
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w") as archive:
        for number in range(100_001):
            archive.writestr(str(number), b"")
    (tmp_path / "m").write_bytes(bomb.getvalue())
    with pytest.raises(Unprocessable, match="at most"):
        load_model(tmp_path / "m", _any_spec("skops"))


@pytest.mark.parametrize("library", [xgboost.XGBRegressor, lightgbm.LGBMRegressor])
def test_a_signature_that_the_model_does_not_have_is_refused(library: Any, tmp_path: Path) -> None:
    model = library(n_estimators=2).fit(SUGAR_X, SUGAR_Y)
    signature = infer_signature(LinearRegression().fit(SUGAR_X[:, :3], SUGAR_Y), SUGAR_X[:2, :3])
    with pytest.raises(Unprocessable, match="3 features"):
        load_model(_save(model, tmp_path / "m"), _spec(format_of(model), signature))


def test_values_that_the_estimator_refuses_are_the_callers_fault(tmp_path: Path) -> None:
    model = LinearRegression().fit(SUGAR_X, SUGAR_Y)
    signature, loaded = _pushed(model, SUGAR_X[:2], tmp_path / "m")
    with pytest.raises(BadRequest, match="NaN"):
        loaded.predict({"input": np.full((1, 10), np.nan)}, ["predict"])
    assert signature.inputs[0].shape == [-1, 10]
