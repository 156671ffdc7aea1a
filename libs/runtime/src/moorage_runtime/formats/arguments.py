"""From named V2 inputs to the one matrix or data frame that estimators take."""

from typing import Any

import numpy as np
from moorage_common.contracts.tensors import Signature

from moorage_runtime.v2 import Array, texts


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


def _plain(array: Array) -> Array:
    return texts(array) if array.dtype.kind == "O" else array
