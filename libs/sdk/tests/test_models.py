"""Models as people have them: their kinds, what is recorded of them, what is refused."""

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import onnx
import pandas as pd
import pytest
import xgboost
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_digits, load_iris
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from skops import io as skops_io

from moorage_runtime.v2 import decode_json_tensors
from moorage_sdk.errors import ModelRefused
from moorage_sdk.models.kinds import kind_of
from moorage_sdk.models.packaged import Packaged
from moorage_sdk.models.packaging import package

X, Y = (part[:400] for part in load_digits(return_X_y=True))
IRIS = load_iris(as_frame=True)


@pytest.fixture(scope="module")
def digits() -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)).fit(X, Y)


def recorded(packaged: Packaged) -> dict[str, Any]:
    assert packaged.examples is not None
    (example,) = packaged.examples.examples
    return decode_json_tensors(example.outputs)


def test_a_pipeline_goes_as_skops_with_its_own_answers(digits: Any) -> None:
    packaged = package(digits, X[:8])
    assert packaged.format == "skops"
    assert packaged.libraries["scikit-learn"]
    assert [(t.name, t.datatype, t.shape) for t in packaged.signature.inputs] == [("input", "FP64", [-1, 64])]
    answers = recorded(packaged)
    np.testing.assert_array_equal(answers["predict"], digits.predict(X[:8]))
    np.testing.assert_allclose(answers["predict_proba"], digits.predict_proba(X[:8]), rtol=1e-12)


def test_an_equal_estimator_is_stored_as_equal_bytes(digits: Any) -> None:
    again = pickle.loads(pickle.dumps(digits))
    assert package(digits).content == package(digits).content == package(again).content


def test_a_pipeline_goes_as_onnx_on_request_and_agrees_with_itself(digits: Any) -> None:
    packaged = package(digits, X[:8], "onnx")
    assert packaged.format == "onnx"
    assert [t.name for t in packaged.signature.outputs] == ["predict", "predict_proba"]
    np.testing.assert_allclose(recorded(packaged)["predict_proba"], digits.predict_proba(X[:8]), atol=1e-5)


def test_an_onnx_conversion_that_answers_otherwise_is_refused() -> None:
    rows = 1e8 + np.arange(40.0).reshape(-1, 1)
    model = LinearRegression().fit(rows, rows[:, 0] - 1e8)
    assert package(model, rows[:8]).format == "skops"
    with pytest.raises(ModelRefused, match=r"saved as onnx, the model answers otherwise .*format='skops'"):
        package(model, rows[:8], "onnx")


def test_a_regressor_converted_to_onnx_answers_one_number_a_row() -> None:
    model = LinearRegression().fit(X, Y)
    packaged = package(model, X[:8], "onnx")
    assert packaged.signature.outputs[0].shape == [-1]
    np.testing.assert_allclose(recorded(packaged)["predict"], model.predict(X[:8]), rtol=1e-4)


def test_a_data_frames_columns_are_kept_in_training_order() -> None:
    names = np.array(["setosa", "versicolor", "virginica"])[IRIS.target]
    model = LogisticRegression(max_iter=500).fit(IRIS.data, names)
    packaged = package(model, IRIS.data[:8])
    assert packaged.signature.inputs[0].columns == list(IRIS.data.columns)
    assert list(recorded(packaged)["predict"]) == [b"setosa"] * 8


def test_a_data_frame_with_text_is_an_input_a_column() -> None:
    frame = pd.DataFrame({"colour": ["red", "blue"] * 10, "size": np.arange(20.0)})
    columns = make_column_transformer((OneHotEncoder(), ["colour"]), (StandardScaler(), ["size"]))
    packaged = package(make_pipeline(columns, LogisticRegression()).fit(frame, [0, 1] * 10), frame[:4])
    assert [(t.name, t.datatype) for t in packaged.signature.inputs] == [("colour", "BYTES"), ("size", "FP64")]


def test_texts_are_an_input_of_their_own() -> None:
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(["good day", "bad day"] * 5, [1, 0] * 5)
    packaged = package(model, ["good", "bad"])
    np.testing.assert_array_equal(recorded(packaged)["predict"], [1, 0])


def test_whole_numbers_are_taken_as_floats_so_that_either_may_be_sent() -> None:
    model = GaussianNB().fit(X.astype(int), Y)
    assert package(model, X[:8].astype(int)).signature.inputs[0].datatype == "FP64"


def test_rows_with_missing_values_are_left_out_of_the_examples() -> None:
    model = HistGradientBoostingRegressor(max_iter=3).fit(X, Y)
    rows = X[:8].copy()
    rows[2, 3] = np.nan
    assert len(recorded(package(model, rows))["predict"]) == 7
    with pytest.raises(ModelRefused, match="no row without missing values"):
        package(model, np.full((2, 64), np.nan))


def test_without_an_example_nothing_is_recorded_but_the_signature_is_known(digits: Any) -> None:
    packaged = package(digits)
    assert packaged.examples is None
    assert packaged.signature.inputs[0].shape == [-1, 64]


def test_xgboost_classifiers_answer_labels_and_probabilities() -> None:
    model = xgboost.XGBClassifier(n_estimators=3, n_jobs=1).fit(X, Y)
    packaged = package(model, X[:8])
    assert packaged.format == "xgboost"
    np.testing.assert_array_equal(recorded(packaged)["predict"], model.predict(X[:8]))
    np.testing.assert_allclose(recorded(packaged)["predict_proba"], model.predict_proba(X[:8]))


def test_an_early_stopped_model_answers_as_its_class_does() -> None:
    model = xgboost.XGBRegressor(n_estimators=60, n_jobs=1, early_stopping_rounds=2)
    model.fit(X[:300], Y[:300], eval_set=[(X[300:], Y[300:])], verbose=False)
    booster = model.get_booster()
    np.testing.assert_allclose(recorded(package(model, X[:8]))["predict"], model.predict(X[:8]))
    every_round = booster.predict(xgboost.DMatrix(X[:8]))
    np.testing.assert_allclose(recorded(package(booster, X[:8]))["predict"], every_round)
    assert booster.attr("best_iteration") is not None


def test_lightgbm_labels_travel_in_the_signature() -> None:
    names = np.array([f"digit-{y}" for y in Y])
    model = lightgbm.LGBMClassifier(n_estimators=3, verbose=-1, n_jobs=1).fit(X, names)
    packaged = package(model, X[:8])
    assert packaged.format == "lightgbm"
    assert [text.decode() for text in recorded(packaged)["predict"]] == [f"digit-{y}" for y in Y[:8]]
    assert package(model.booster_, X[:8]).signature.outputs[0].shape == [-1, 10]


def test_an_onnx_graph_goes_as_it_is(digits: Any, tmp_path: Path) -> None:
    content = package(digits, X[:8], "onnx").content
    (tmp_path / "model.onnx").write_bytes(content)
    from_path = package(tmp_path / "model.onnx", X[:8])
    from_graph = package(onnx.load_from_string(content), X[:8])
    assert from_path.content == content
    assert from_graph.signature == from_path.signature


def test_files_are_pushed_as_their_own_bytes(digits: Any, tmp_path: Path) -> None:
    skops_io.dump(digits, tmp_path / "model.skops")
    xgboost.XGBClassifier(n_estimators=3, n_jobs=1).fit(X, Y).save_model(tmp_path / "model.json")
    lightgbm.LGBMRegressor(n_estimators=3, verbose=-1, n_jobs=1).fit(X, Y).booster_.save_model(tmp_path / "model.txt")
    for name, stored in (("model.skops", "skops"), ("model.json", "xgboost"), ("model.txt", "lightgbm")):
        packaged = package(str(tmp_path / name), X[:8])
        assert packaged.content == (tmp_path / name).read_bytes()
        assert packaged.format == stored
        assert len(recorded(packaged)["predict"]) == 8
    np.testing.assert_array_equal(recorded(package(tmp_path / "model.skops", X[:8]))["predict"], digits.predict(X[:8]))


@pytest.mark.parametrize("name", ["model.pkl", "model.pickle", "model.joblib", "renamed.skops", "renamed.onnx"])
def test_a_pickle_is_refused_whatever_it_is_called_and_shows_the_way_out(
    name: str, digits: Any, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(pickle.dumps(digits))
    with pytest.raises(ModelRefused, match=r"is a pickle, which runs code .* skops.io.dump\(model"):
        package(tmp_path / name)


def test_compressed_joblib_is_refused_too(digits: Any, tmp_path: Path) -> None:
    joblib.dump(digits, tmp_path / "model.skops", compress=3)
    with pytest.raises(ModelRefused, match="is a pickle"):
        package(tmp_path / "model.skops")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (object(), "is not taken; push a scikit-learn estimator"),
        (b"\x80\x04", "may be a pickle"),
        ("model.pt", "cannot be read"),
        (LogisticRegression(), "fit it"),
    ],
)
def test_what_is_not_taken_says_what_is(model: Any, said: str) -> None:
    with pytest.raises(ModelRefused, match=said):
        package(model)


@pytest.mark.parametrize(
    ("name", "said"), [("m.pt", "push the torch module"), ("m.bst", "save_model"), ("m", "end in")]
)
def test_other_files_show_the_format_to_write(name: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"something")
    with pytest.raises(ModelRefused, match=said):
        package(tmp_path / name)


def test_another_format_than_the_librarys_own_is_refused() -> None:
    model = xgboost.XGBRegressor(n_estimators=2, n_jobs=1).fit(X, Y)
    with pytest.raises(ModelRefused, match="leave format= out"):
        package(model, X[:8], "onnx")


def test_a_function_of_ones_own_is_refused_before_the_upload() -> None:
    model = make_pipeline(FunctionTransformer(_doubled), GaussianNB()).fit(X, Y)
    with pytest.raises(ModelRefused, match="not trusted"):
        package(model, X[:8])


def _doubled(rows: Any) -> Any:
    return rows * 2


def test_kinds_are_told_without_importing_their_libraries() -> None:
    code = (
        "import sys\n"
        "from moorage_sdk.models.kinds import kind_of\n"
        "assert kind_of('model.onnx') == 'file'\n"
        "loaded = {'sklearn', 'torch', 'xgboost', 'lightgbm', 'onnx'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_torch_modules_are_told_by_their_class_and_missing_torch_says_how_to_get_it() -> None:
    if "torch" in sys.modules or _has_torch():
        pytest.skip("torch is installed")
    module = type("Module", (), {"__module__": "torch.nn.modules.module"})
    net = type("Net", (module,), {})()
    assert kind_of(net) == "torch"
    with pytest.raises(ModelRefused, match=r"pip install 'moorage-sdk\[torch\]'"):
        package(net, X[:8])


def _has_torch() -> bool:
    from importlib.util import find_spec

    return find_spec("torch") is not None
