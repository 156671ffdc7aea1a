"""Linear scikit-learn models without what scikit-learn does around the arithmetic: its checks of input and its choice
of array library cost 0.1 ms a call, ten times the arithmetic of a small batch.

The arithmetic is scikit-learn's own, operation by operation, so answers are the same to the bit; `linear_of` holds
them against the estimator before it lets them be used. Whatever the estimator would refuse is left to it.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit
from sklearn.linear_model import ElasticNet, Lasso, LinearRegression, LogisticRegression, Ridge
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from moorage_common.contracts.tensors import Signature
from moorage_runtime.formats.estimators import as_argument, call_methods
from moorage_runtime.v2 import DTYPES, Array

_REGRESSORS = (LinearRegression, Ridge, Lasso, ElasticNet)
_CLASSIFIERS = (LogisticRegression, LinearSVC)
_PROBE_ROWS = (1, 2, 7, 64)


@dataclass(frozen=True, slots=True)
class Linear:
    """`(X - means) / scales` for each scaler, then `X @ weights + intercept`. `classes` None is a regression."""

    input: str
    scalers: tuple[tuple[Array | None, Array | None], ...]
    weights: Array
    intercept: Any
    classes: Array | None

    def answers(self, inputs: dict[str, Array], wanted: Collection[str]) -> dict[str, Array] | None:
        """What the estimator answers; None where it is to be asked itself, for it may refuse."""
        x = inputs[self.input]
        if x.shape[1] != len(self.weights):
            return None
        if self.scalers:
            x = x.copy()
        for means, scales in self.scalers:
            if means is not None:
                x -= means
            if scales is not None:
                x /= scales
        if not np.isfinite(x).all():
            return None
        scores = x @ self.weights + self.intercept
        if self.classes is None:
            return {"predict": scores}
        if scores.ndim > 1 and scores.shape[1] == 1:
            scores = scores.reshape(-1)
        return {name: self._answer(name, scores, self.classes) for name in wanted}

    def _answer(self, method: str, scores: Array, classes: Array) -> Array:
        if method == "decision_function":
            return scores
        if method == "predict":
            indexes = (scores > 0).astype(np.intp) if scores.ndim == 1 else np.argmax(scores, axis=1)
            return np.asarray(classes.take(indexes, axis=0))
        if scores.ndim == 1:
            positive = expit(scores)
            return np.stack([1 - positive, positive], axis=1)
        exponentials = np.exp(scores - np.max(scores, axis=1, keepdims=True))
        exponentials /= np.sum(exponentials, axis=1, keepdims=True)
        return np.asarray(exponentials)


def linear_of(estimator: Any, signature: Signature) -> Linear | None:
    """The estimator as plain arithmetic, if it is of a kind known here, takes one matrix of floats, and answers the
    very same; else None."""
    spec = signature.inputs[0]
    if len(signature.inputs) > 1 or len(spec.shape) != 2 or spec.datatype not in {"FP32", "FP64"}:
        return None
    names = getattr(estimator, "feature_names_in_", None)
    if names is not None and list(names) != spec.columns:
        return None
    found = _arithmetic(estimator, spec.name, DTYPES[spec.datatype])
    return found if found is not None and _same(found, estimator, signature) else None


def _arithmetic(estimator: Any, name: str, dtype: np.dtype[Any]) -> Linear | None:
    *before, last = [step for _name, step in estimator.steps] if type(estimator) is Pipeline else [estimator]
    if type(last) not in (*_REGRESSORS, *_CLASSIFIERS) or any(type(step) is not StandardScaler for step in before):
        return None
    scalers = tuple(
        (_cast(step.mean_ if step.with_mean else None, dtype), _cast(step.scale_ if step.with_std else None, dtype))
        for step in before
    )
    if not isinstance(last.coef_, np.ndarray):
        return None
    weights = last.coef_.T if last.coef_.ndim == 2 else last.coef_
    return Linear(name, scalers, weights, last.intercept_, getattr(last, "classes_", None))


def _cast(array: Array | None, dtype: np.dtype[Any]) -> Array | None:
    return None if array is None else array.astype(dtype)


def _same(linear: Linear, estimator: Any, signature: Signature) -> bool:
    """Whether both answer the same, to the bit, in every output, for matrices of several heights and scales."""
    wanted = [output.name for output in signature.outputs]
    dtype, random = DTYPES[signature.inputs[0].datatype], np.random.default_rng(0)
    for number, rows in enumerate(_PROBE_ROWS):
        probe = (random.standard_normal((rows, len(linear.weights))) * 10**number).astype(dtype)
        inputs = {linear.input: probe}
        try:
            expected = call_methods(estimator, as_argument(signature, inputs), wanted)
            answers = linear.answers(inputs, wanted)
        except Exception:  # noqa: BLE001 - then it is not what we took it for
            return False
        if answers is None or not all(_equal(expected[name], answers.get(name)) for name in wanted):
            return False
    return True


def _equal(one: Array, other: Array | None) -> bool:
    return (
        other is not None and one.dtype == other.dtype and one.shape == other.shape and one.tolist() == other.tolist()
    )
