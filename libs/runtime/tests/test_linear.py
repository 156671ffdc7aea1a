"""Linear models answer what scikit-learn answers, to the bit, and refuse in its words."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import ElasticNet, LinearRegression, LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import LinearSVC

from moorage_common.contracts.tensors import TensorSpec
from moorage_common.errors import BadRequest
from moorage_runtime.formats.estimators import as_argument, call_methods
from moorage_runtime.formats.linear import linear_of
from moorage_runtime.formats.skops import SkopsModel
from moorage_runtime.signature import infer_signature

DIGITS, CANCER, SUGAR = (load(return_X_y=True) for load in (load_digits, load_breast_cancer, load_diabetes))

MODELS: dict[str, tuple[Callable[[], Any], tuple[Any, Any]]] = {
    "ten classes": (lambda: LogisticRegression(max_iter=2000), DIGITS),
    "two classes": (lambda: LogisticRegression(max_iter=10_000), CANCER),
    "names for classes": (
        lambda: LogisticRegression(max_iter=10_000), (CANCER[0], np.array(["benign", "malign"])[CANCER[1]])
    ),
    "scaled": (lambda: make_pipeline(StandardScaler(), LogisticRegression()), CANCER),
    "margins": (lambda: LinearSVC(max_iter=20_000, tol=0.1), DIGITS),
    "regression": (LinearRegression, SUGAR),
    "two targets": (LinearRegression, (SUGAR[0], np.column_stack([SUGAR[1], -SUGAR[1]]))),
    "scaled regression": (lambda: make_pipeline(StandardScaler(with_mean=False), Ridge()), SUGAR),
    "sparse regression": (ElasticNet, SUGAR),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["f8", "f4"])
@pytest.mark.parametrize("name", MODELS)
def test_linear_models_answer_the_same_to_the_bit(name: str, dtype: str) -> None:
    make, (x, y) = MODELS[name]
    x = x.astype(dtype)
    estimator = make().fit(x, y)
    signature = infer_signature(estimator, x[:4])
    wanted = [output.name for output in signature.outputs]
    found = linear_of(estimator, signature)
    assert found is not None
    for at in range(0, len(x), 53):
        inputs = {signature.inputs[0].name: x[at : at + 53]}
        kept = inputs[found.input].copy()
        answers = found.answers(inputs, wanted)
        assert answers is not None
        for method, expected in call_methods(estimator, as_argument(signature, inputs), wanted).items():
            assert answers[method].dtype == expected.dtype
            np.testing.assert_array_equal(answers[method], expected)
        np.testing.assert_array_equal(inputs[found.input], kept)


def _renamed(spec: TensorSpec) -> TensorSpec:
    return spec.model_copy(update={"columns": [f"d{i}" for i in range(10)]})


def test_models_trained_on_named_columns_are_answered_from_the_matrix() -> None:
    frame = pd.DataFrame(SUGAR[0], columns=[f"c{i}" for i in range(10)])
    estimator = LinearRegression().fit(frame, SUGAR[1])
    signature = infer_signature(estimator, frame[:4])
    found = linear_of(estimator, signature)
    assert found is not None
    answers = found.answers({found.input: SUGAR[0]}, ["predict"])
    assert answers is not None
    assert linear_of(estimator, signature.model_copy(update={"inputs": [_renamed(signature.inputs[0])]})) is None
    np.testing.assert_array_equal(answers["predict"], estimator.predict(frame))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_the_estimator_refuses_are_refused_in_its_words(value: float) -> None:
    estimator = LogisticRegression(max_iter=2000).fit(*DIGITS)
    signature = infer_signature(estimator, DIGITS[0][:4])
    bad = DIGITS[0][:3].copy()
    bad[1, 5] = value
    with pytest.raises(BadRequest, match="Input X contains"):
        SkopsModel(estimator, signature).predict({signature.inputs[0].name: bad}, ["predict"])


@pytest.mark.parametrize(
    "estimator",
    [RandomForestClassifier(3), make_pipeline(MinMaxScaler(), LogisticRegression(max_iter=2000))],
    ids=["forest", "another scaler"],
)
def test_other_estimators_are_asked_themselves(estimator: Any) -> None:
    estimator.fit(*DIGITS)
    assert linear_of(estimator, infer_signature(estimator, DIGITS[0][:4])) is None


def test_a_subclass_or_a_changed_estimator_is_not_taken_for_the_original() -> None:
    class Different(LogisticRegression):
        def predict(self, X: Any) -> Any:
            return super().predict(X)[::-1]

    estimator = Different(max_iter=2000).fit(*DIGITS)
    assert linear_of(estimator, infer_signature(estimator, DIGITS[0][:4])) is None
