"""Compact outputs: the class, or the number, of an answer's first row, small enough to keep. Pure."""

import math

import numpy as np

from moorage_common.contracts import host_calls
from moorage_common.contracts.feedback import OUTPUT_BYTES, Output
from moorage_common.contracts.tensors import Signature, TensorSpec
from moorage_runtime.v2 import Array


def kept_output(signature: Signature, asked: str) -> TensorSpec | None:
    """The output that `asked` names, the first for `host_calls.FIRST`; None where the version has no such output."""
    outputs = signature.outputs
    for spec in outputs:
        if spec.name == asked:
            return spec
    return outputs[0] if asked == host_calls.FIRST and outputs else None


def compact_output(signature: Signature, spec: TensorSpec, array: Array) -> Output | None:
    """The compact output of the first row; of the whole answer where rows are not independent.

    One integer, bool or string is a class, one float is a number, several floats are a class each: that of the
    largest, by its label where the signature has labels, else by its index.

    Args:
        array: shape (rows, ...) or, where the signature does not batch, as the version answered it.

    Returns:
        None for what is none of these, for NaN and Inf, for what is no UTF-8 or longer than OUTPUT_BYTES.
    """
    row = array[0] if signature.batchable and array.ndim else array
    size = np.size(row)
    if size == 1:
        return _of_one(row.item() if isinstance(row, np.ndarray | np.generic) else row)
    if size and np.ndim(row) == 1 and row.dtype.kind == "f":
        best = int(row.argmax())
        if not math.isfinite(row[best]):  # NaN is the largest there is
            return None
        labels = spec.labels
        return _of_one(labels[best] if labels is not None and len(labels) == size else best)
    return None


def _of_one(value: object) -> Output | None:
    if isinstance(value, float):
        return Output(kind="number", value=repr(value)) if math.isfinite(value) else None
    if isinstance(value, bool):
        return Output(kind="class", value="true" if value else "false")
    try:
        text = value.decode() if isinstance(value, bytes) else str(value)
        if len(text.encode()) <= OUTPUT_BYTES:
            return Output(kind="class", value=text)
    except UnicodeError:
        pass
    return None
