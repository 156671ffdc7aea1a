"""The protocol's datatypes as numpy sees them, and the limits that hold before anything is allocated.

BF16 has no numpy type: in memory it is float32 and only the wire knows it. BYTES is an object array of `bytes`.
"""

import math
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from moorage_common.contracts.tensors import Datatype
from moorage_common.errors import BadRequest

Array = NDArray[Any]

MAX_RANK = 8
MAX_TENSORS = 64
MAX_DEPTH = 16

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BF16": np.dtype("<f4"),
    "BYTES": np.dtype(object),
}
_BY_DTYPE: dict[np.dtype[Any], Datatype] = {
    DTYPES[name]: name for name in get_args(Datatype) if name not in {"BF16", "BYTES"}
}


def datatype_of(array: Array) -> Datatype:
    """The V2 datatype of an array.

    Raises:
        BadRequest: numpy types without one (complex, dates, records).
    """
    if array.dtype.kind in "OUS":
        return "BYTES"
    found = _BY_DTYPE.get(array.dtype.newbyteorder("<"))
    if found is None:
        raise BadRequest(
            f"arrays of numpy type {array.dtype} have no V2 datatype; convert to bool, integers, floats or strings"
        )
    return found


def element_count(name: str, shape: Any) -> int:
    """Elements that `shape` promises, counted in Python integers, so nothing overflows or is allocated.

    Raises:
        BadRequest: not a list of at most MAX_RANK non-negative integers.
    """
    if not isinstance(shape, list) or any(type(d) is not int or d < 0 for d in shape):
        raise BadRequest(f"tensor '{name}': shape must be a list of integers that are not negative")
    if len(shape) > MAX_RANK:
        raise BadRequest(f"tensor '{name}': shape has {len(shape)} dimensions, at most {MAX_RANK} are allowed")
    return math.prod(shape)


def byte_strings(array: Array) -> list[bytes]:
    """Elements of a BYTES array (object, str or bytes dtype) in row-major order as `bytes`, text as UTF-8."""
    return [v if isinstance(v, bytes) else str(v).encode() for v in array.ravel().tolist()]


def object_array(values: list[Any], shape: tuple[int, ...]) -> Array:
    """An object array of `values` that numpy does not look into."""
    flat = np.empty(len(values), dtype=object)
    flat[:] = values
    return flat.reshape(shape)


def texts(array: Array) -> Array:
    """A BYTES array as an object array of `str`.

    Raises:
        BadRequest: an element is not UTF-8.
    """
    try:
        values = [v.decode() if isinstance(v, bytes) else str(v) for v in array.ravel().tolist()]
    except UnicodeDecodeError:
        raise BadRequest("the model takes text, and a BYTES element is not UTF-8; encode strings as UTF-8") from None
    return object_array(values, array.shape)


def canonical(array: Array) -> Array:
    """`array` in the form that the codec decodes to: little-endian, and BYTES as objects of `bytes`."""
    if array.dtype.kind in "OUS":
        return object_array(byte_strings(array), array.shape)
    return array.astype(array.dtype.newbyteorder("<"), copy=False)
