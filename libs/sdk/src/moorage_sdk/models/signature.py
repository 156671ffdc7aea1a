"""The signature of a live model by the runtime's rules, with or without an example."""

from typing import Any

import numpy as np

from moorage_common.contracts.tensors import Signature
from moorage_common.errors import MoorageError
from moorage_runtime.signature import INPUT, infer_signature
from moorage_runtime.v2 import DTYPES
from moorage_sdk.errors import ModelRefused


def stand_in(model: Any) -> Any:
    """One row of zeros where the estimator tells how wide its matrix is; for pushes without an example.

    Raises:
        ModelRefused: it is not fitted, or does not tell.
    """
    width = getattr(model, "n_features_in_", None)
    if width is None:
        raise ModelRefused(f"{type(model).__name__} does not tell what it takes; fit it, and give rows: example=X[:8]")
    names = getattr(model, "feature_names_in_", None)
    zeros = np.zeros((1, int(width)))
    if names is None:
        return zeros
    import pandas as pd  # noqa: PLC0415 - whoever fitted on a data frame has it

    return pd.DataFrame(zeros, columns=list(names))


def signature_of(model: Any, example: Any) -> Signature:
    """What `model` takes and gives. A matrix of whole numbers is taken as FP64, so that callers may send either.

    Raises:
        ModelRefused: the model fails on the example, or its answers cannot be carried.
    """
    try:
        found = infer_signature(model, example)
    except MoorageError as error:
        raise ModelRefused(error.message) from error
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise ModelRefused(f"{type(model).__name__} fails on the example: {text}") from error
    first = found.inputs[0]
    if first.name != INPUT or len(first.shape) < 2 or DTYPES[first.datatype].kind not in "iub":
        return found
    return found.model_copy(update={"inputs": [first.model_copy(update={"datatype": "FP64"})]})
