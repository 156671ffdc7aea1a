"""What scikit-learn wrappers of boosters make of a booster's raw numbers."""

import numpy as np

from moorage_common.contracts.tensors import Signature, TensorSpec
from moorage_runtime.v2 import DTYPES, Array


def output_spec(signature: Signature, name: str) -> TensorSpec | None:
    return next((o for o in signature.outputs if o.name == name), None)


def is_classifier(signature: Signature) -> bool:
    """Whether `predict` means labels: the signature records probabilities or labels beside it."""
    predict = output_spec(signature, "predict")
    return output_spec(signature, "predict_proba") is not None or (predict is not None and predict.labels is not None)


def two_columns(positive: Array) -> Array:
    """Probabilities of both classes from those of the second, shape (rows,) -> (rows, 2)."""
    return np.column_stack([1 - positive, positive])


def labelled(indexes: Array, spec: TensorSpec | None) -> Array:
    """Class labels for class indexes, in the recorded datatype."""
    if spec is None:
        return indexes
    dtype = DTYPES[spec.datatype]
    if spec.labels is not None:
        return np.array(spec.labels, dtype=dtype)[indexes]
    return indexes.astype(dtype)
