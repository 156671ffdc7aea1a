"""Tensor data as JSON: lists, nested or flat, to and from numpy without a Python loop over numbers."""

from itertools import chain
from typing import Any

import numpy as np

from moorage_common.errors import BadRequest, Internal, MoorageError
from moorage_runtime.v2.datatypes import DTYPES, MAX_RANK, Array, element_count, object_array

_NUMBER_TYPES: dict[str, frozenset[type]] = {"b": frozenset({bool}), "f": frozenset({int, float})}
_INT_TYPES = frozenset({int})
_EXPECTED = {"b": "true or false", "f": "numbers", "i": "whole numbers", "u": "whole numbers", "O": "strings"}


def _flatten(name: str, data: list[Any]) -> tuple[list[Any], list[int]]:
    """The leaves of `data` and its nesting as dimensions; ragged or too deep nesting is refused.

    Types and lengths are looked at level by level in C, so that a stray string never makes numpy choose a wide type.
    """
    level, dims = data, [len(data)]
    while level and type(level[0]) is list:
        if len(dims) == MAX_RANK:
            raise BadRequest(f"tensor '{name}': data is nested deeper than {MAX_RANK} lists")
        lengths = set(map(len, level)) if set(map(type, level)) == {list} else set()
        if len(lengths) != 1:
            raise BadRequest(f"tensor '{name}': data is ragged; inner lists must have equal lengths")
        dims.append(lengths.pop())
        level = list(chain.from_iterable(level))
    return level, dims


def _without_ones(shape: list[int]) -> list[int]:
    return [d for d in shape if d != 1]


def from_json(name: str, datatype: str, shape: Any, data: Any) -> Array:
    """Decode one tensor's `data`; 64-bit integers stay exact.

    Raises:
        BadRequest: another number of elements than the shape promises, another nesting, another kind of value.
    """
    count = element_count(name, shape)
    if datatype == "BF16":
        raise BadRequest(f"tensor '{name}': BF16 has no JSON form; send it as binary data or as FP32")
    if not isinstance(data, list):
        raise BadRequest(f"tensor '{name}': data must be a list")
    leaves, dims = _flatten(name, data)
    if len(leaves) != count:
        raise BadRequest(f"tensor '{name}': shape {shape} promises {count} elements, data holds {len(leaves)}")
    if len(dims) > 1 and count and _without_ones(dims) != _without_ones(shape):
        raise BadRequest(f"tensor '{name}': data is nested as {dims}, shape says {shape}; make them agree")
    return _typed(name, datatype, leaves).reshape(shape)


def _typed(name: str, datatype: str, leaves: list[Any]) -> Array:
    dtype = DTYPES[datatype]
    kinds = set(map(type, leaves))
    if dtype.kind == "O":
        if kinds - {str}:
            raise _wrong_values(name, datatype, kinds)
        return object_array([text.encode() for text in leaves], (len(leaves),))
    if kinds - _NUMBER_TYPES.get(dtype.kind, _INT_TYPES):
        raise _wrong_values(name, datatype, kinds)
    try:
        with np.errstate(over="ignore"):
            array = np.array(leaves, dtype=dtype)
    except OverflowError:
        raise BadRequest(f"tensor '{name}': a value does not fit {datatype}") from None
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise BadRequest(f"tensor '{name}': a value does not fit {datatype}")
    return array


def _wrong_values(name: str, datatype: str, kinds: set[type]) -> MoorageError:
    expected = _EXPECTED[DTYPES[datatype].kind]
    if type(None) in kinds:
        hint = "; NaN and missing values travel as binary data only" if datatype.startswith("FP") else ""
        return BadRequest(f"tensor '{name}': {datatype} data holds null, expected {expected}{hint}")
    names = ", ".join(sorted(k.__name__ for k in kinds))
    return BadRequest(f"tensor '{name}': {datatype} data must be {expected}, found {names}")


def to_json(name: str, array: Array) -> Any:
    """`array` as flat JSON data: a contiguous numpy array that orjson writes itself, or a list of strings.

    Raises:
        Internal: `nan_output` for NaN or Inf, `not_utf8` for BYTES that JSON cannot carry.
    """
    if array.dtype.kind in "OUS":
        try:
            return [v.decode() if isinstance(v, bytes) else str(v) for v in array.ravel().tolist()]
        except UnicodeDecodeError:
            raise Internal(
                f"tensor '{name}' holds bytes that are not UTF-8; ask for it with binary_data: true", code="not_utf8"
            ) from None
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Internal(
            f"tensor '{name}' holds NaN or Inf, which JSON cannot carry; check the inputs, or ask for it "
            "with binary_data: true",
            code="nan_output",
        )
    return np.ascontiguousarray(array.ravel(), dtype=array.dtype.newbyteorder("="))
