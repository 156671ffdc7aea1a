"""Tensor data as JSON: lists, nested or flat, to and from numpy without a Python loop over numbers."""

import math
from typing import Any

import numpy as np

from moorage_common.errors import BadRequest, Internal
from moorage_runtime.v2.datatypes import Array, Budget, Promise
from moorage_runtime.v2.numbers import numbers
from moorage_runtime.v2.strings import strings

_FEW = 256
"""Arrays up to this are written faster as lists."""


def from_json(promise: Promise, raw: Any, budget: Budget) -> Array:
    """Decode one tensor's `data`, JSON text that was parsed once.

    Raises:
        BadRequest: another number of elements than the shape promises, another nesting, another kind of value.
        TooLarge: the budget is used up.
    """
    if promise.datatype == "BYTES":
        return strings(promise, memoryview(raw), budget)
    if promise.datatype == "BF16":
        raise BadRequest(f"tensor '{promise.name}': BF16 has no JSON form; send it as binary data")
    return numbers(promise, raw, budget)


def no_json(name: str) -> BadRequest:
    """The refusal of a BF16 tensor that was asked for as JSON."""
    return BadRequest(f"tensor '{name}' is BF16, which has no JSON form; ask for it with binary_data: true")


def to_json(name: str, array: Array, datatype: str, *, finite: bool = False) -> Any:
    """`array` as flat JSON data: a contiguous numpy array that orjson writes itself, or a list.

    Args:
        finite: it is known to hold no NaN or Inf.

    Raises:
        BadRequest: BF16, which has no JSON form.
        Internal: `nan_output` for NaN or Inf, `not_utf8` for BYTES that JSON cannot carry.
    """
    kind = array.dtype.kind
    if kind in "OUS":
        try:
            return [v.decode() if isinstance(v, bytes) else str(v) for v in array.ravel().tolist()]
        except UnicodeDecodeError:
            raise Internal(
                f"tensor '{name}' holds bytes that are not UTF-8; ask for it with binary_data: true", code="not_utf8"
            ) from None
    if datatype == "BF16":
        raise no_json(name)
    if array.size <= _FEW:
        values = array.ravel().tolist()
        # A sum is finite only if all are; one that is not may have overflowed.
        if finite or kind != "f" or (math.isfinite(sum(values)) or bool(np.isfinite(array).all())):
            return values if array.dtype.char not in "ef" else _numpy(array)
        raise _not_finite(name)
    if kind == "f" and not finite and not np.isfinite(array).all():
        raise _not_finite(name)
    return _numpy(array)


def _numpy(array: Array) -> Array:
    """As orjson takes it; it writes the shortest digits that give back an FP32, FP16 goes as that."""
    dtype = np.dtype("f4") if array.dtype.char == "e" else array.dtype.newbyteorder("=")
    return np.ascontiguousarray(array.ravel(), dtype=dtype)


def _not_finite(name: str) -> Internal:
    return Internal(
        f"tensor '{name}' holds NaN or Inf, which JSON cannot carry; check the inputs, or ask for it "
        "with binary_data: true",
        code="nan_output",
    )
