"""From named V2 inputs to the one matrix or data frame that estimators take, and from their methods to outputs."""

from collections.abc import Collection
from typing import Any

import numpy as np

from moorage_common.contracts.tensors import Signature
from moorage_common.errors import BadRequest, Unprocessable
from moorage_runtime.v2 import Array, texts

METHODS = ("predict", "predict_proba", "decision_function", "score_samples", "transform")
"""Estimator methods that may be outputs; an output bears its method's name."""


def call_methods(estimator: Any, argument: Any, wanted: Collection[str]) -> dict[str, Array]:
    """Answers of the estimator's methods by name, dense arrays.

    Raises:
        BadRequest: the estimator refuses the values.
    """
    outputs = {}
    for name in wanted:
        try:
            answer = getattr(estimator, name)(argument)
        except (ValueError, TypeError) as error:
            raise BadRequest(f"the model refuses the input: {str(error)[:300]}") from None
        outputs[name] = np.asarray(answer.toarray() if hasattr(answer, "toarray") else answer)
    return outputs


def as_argument(signature: Signature, inputs: dict[str, Array]) -> Any:
    """What to call an estimator with.

    One input of rank 2 without columns is the matrix itself; with columns it is a data frame of them. Inputs of rank 1
    with columns are a data frame's columns, one each. One input of rank 1 without columns (texts) is passed as it is.
    """
    specs = signature.inputs
    if len(specs) == 1 and specs[0].columns is None:
        return _plain(inputs[specs[0].name])
    import pandas as pd  # noqa: PLC0415 - only models trained on data frames pay for it

    if len(specs) == 1 and len(specs[0].shape) > 1:
        return pd.DataFrame(_plain(inputs[specs[0].name]), columns=specs[0].columns, copy=False)
    columns = {(s.columns or [s.name])[0]: _plain(inputs[s.name]) for s in specs}
    return pd.DataFrame(columns, copy=False)


def as_matrix(signature: Signature, inputs: dict[str, Array]) -> Array:
    """A numeric matrix for boosters: the one input of rank 2, or named columns side by side in signature order."""
    specs = signature.inputs
    if len(specs) == 1 and len(specs[0].shape) > 1:
        return inputs[specs[0].name]
    return np.column_stack([inputs[s.name] for s in specs])


def check_width(signature: Signature, features: int) -> None:
    """Hold a booster against the signature.

    Raises:
        Unprocessable: `bad_signature` for another number of features.
    """
    inputs = signature.inputs
    width = inputs[0].shape[-1] if len(inputs) == 1 and len(inputs[0].shape) > 1 else len(inputs)
    if width not in {-1, features}:
        raise Unprocessable(f"the signature has {width} features, the booster {features}", code="bad_signature")


def _plain(array: Array) -> Array:
    return texts(array) if array.dtype.kind == "O" else array
