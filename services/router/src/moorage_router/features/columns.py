"""Features as arrays of the signature's datatypes: exact, or refused. Pure."""

from array import array
from typing import Any

import numpy as np

from moorage_common.contracts.tensors import Datatype
from moorage_common.errors import Unprocessable
from moorage_runtime.v2 import DTYPES, Array

_CODES = {
    "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q", "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q",
    "FP16": "d", "FP32": "d", "FP64": "d", "BF16": "d",
}  # fmt: skip
"""As `array` calls them. It takes numbers alone, refuses integers out of range, and is faster than `np.array`."""


def cast(name: str, values: list[Any], datatype: Datatype) -> Array:
    """`values` as an array [rows] of `datatype`.

    Integers stay exact and floats become integers only where they are whole; to a float datatype all numbers are
    rounded. BYTES takes text and bytes, BOOL truth values.

    Raises:
        Unprocessable: a value does not fit.
    """
    try:
        return _cast(values, datatype)
    except (TypeError, ValueError, ArithmeticError) as error:
        message = f"{name} does not fit the model's input, which is {datatype}; check its type in the feature service"
        raise Unprocessable(message, code="features_cast", detail=str(error)) from error


def recast(name: str, sent: Array, datatype: Datatype) -> Array:
    """An input that the caller sent as an array [rows] of `datatype`; see `cast`."""
    flat = sent.ravel()
    return flat if sent.dtype == DTYPES[datatype] and datatype != "BYTES" else cast(name, flat.tolist(), datatype)


def _cast(values: list[Any], datatype: Datatype) -> Array:
    dtype = DTYPES[datatype]
    if datatype in {"BYTES", "BOOL"}:
        return _bytes(values) if datatype == "BYTES" else _flags(values)
    code = _CODES[datatype]
    if code == "d":
        with np.errstate(over="raise"):
            return np.frombuffer(array(code, values), np.float64).astype(dtype)
    try:
        numbers = array(code, values)
    except TypeError:
        numbers = array(code, _whole(values))
    return np.frombuffer(numbers, dtype)


def _whole(values: list[Any]) -> list[int]:
    if not set(map(type, values)) <= {int, float, bool}:
        message = "values that are no numbers"
        raise TypeError(message)
    whole = list(map(int, values))
    if whole != values:
        message = "floats that are not whole"
        raise ValueError(message)
    return whole


def _flags(values: list[Any]) -> Array:
    if set(map(type, values)) != {bool}:
        message = "values that are not true or false"
        raise TypeError(message)
    return np.array(values, np.bool_)


def _bytes(values: list[Any]) -> Array:
    if not set(map(type, values)) <= {str, bytes}:
        message = "values that are not text"
        raise TypeError(message)
    made = np.empty(len(values), dtype=object)
    made[:] = [value.encode() if isinstance(value, str) else value for value in values]
    return made
