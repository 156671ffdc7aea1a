"""The one request that a benchmark sends again and again."""

from typing import Any

import numpy as np

from moorage_common.contracts.tensors import TensorSpec
from moorage_runtime.v2 import DTYPES, HEADER_LENGTH, Array
from moorage_sdk.wire import Call


def zeros(specs: list[TensorSpec], rows: int) -> dict[str, Array]:
    """Zeros and empty texts by the signature: `rows` for a free first dimension, 1 for the other free ones."""
    return {spec.name: _zeros(spec, rows) for spec in specs}


def _zeros(spec: TensorSpec, rows: int) -> Array:
    free = [rows, *[1] * (len(spec.shape) - 1)]
    shape = tuple(size if size >= 0 else free[at] for at, size in enumerate(spec.shape))
    if spec.datatype == "BYTES":
        return np.full(shape, b"", dtype=object)
    return np.zeros(shape, DTYPES[spec.datatype])


def described(inputs: Any) -> str:
    """The tensors of `inputs` in a few words."""
    if isinstance(inputs, dict) and all(isinstance(value, np.ndarray) for value in inputs.values()):
        return ", ".join(f"{name} {value.dtype}{list(value.shape)}" for name, value in inputs.items())
    return "the request given"


def encoding(call: Call) -> str:
    return "binary" if HEADER_LENGTH in call.headers else "JSON"
