"""The protocol's datatypes as numpy sees them, and the limits that hold before anything is allocated.

BF16 has no numpy type: in memory it is float32 and only the wire knows it. BYTES is an object array of `bytes`.
"""

import math
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from moorage_common.contracts.tensors import Datatype
from moorage_common.errors import BadRequest, TooLarge

Array = NDArray[Any]

MAX_RANK = 8
MAX_TENSORS = 64
MAX_DEPTH = 16
MAX_NAME_BYTES = 1024
MAX_ID_BYTES = 16 * 1024
MAX_PARAMETERS_BYTES = 64 * 1024
MAX_ELEMENTS = 2**48
"""Dimensions beside a zero may promise no more than this either: numpy cannot hold such a shape."""

REQUEST_LIMIT_BYTES = 64 * 1024 * 1024
RESPONSE_LIMIT_BYTES = 1024 * 1024 * 1024
ELEMENT_COST_BYTES = 64
"""What an element of BYTES costs beside its bytes: an object's header and two pointers to it."""

WINDOW_BYTES = 64 * 1024
"""JSON is decoded in pieces of this size, so that what lies between text and array stays small."""

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
_COST = {name: ELEMENT_COST_BYTES if name == "BYTES" else dtype.itemsize for name, dtype in DTYPES.items()}
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


class Promise(Struct):
    """What a tensor's head says of its data. `count` is of elements, as `shape` promises."""

    name: str
    datatype: Datatype
    shape: list[int]
    count: int


class Budget:
    """Bytes that the tensors of one message may still take in memory."""

    __slots__ = ("_left", "_limit")

    def __init__(self, limit_bytes: int) -> None:
        self._limit = self._left = limit_bytes

    def take_elements(self, promise: Promise) -> None:
        """Reserve what the elements cost, those of BYTES beside their bytes.

        Raises:
            TooLarge: no room is left for them.
        """
        self.take(promise.count * _COST[promise.datatype])

    def take(self, size: int) -> None:
        """Reserve `size` bytes.

        Raises:
            TooLarge: no room is left for them.
        """
        self._left -= size
        if self._left < 0:
            raise TooLarge(f"the tensors take more than {self._limit} bytes decoded; send fewer rows at a time")


def element_count(name: str, shape: Sequence[int]) -> int:
    """Elements that `shape` (not negative) promises, in Python integers, so nothing overflows or is allocated.

    Raises:
        BadRequest: no array has that shape.
    """
    count = math.prod(shape)
    if count == 0 and math.prod(d or 1 for d in shape) > MAX_ELEMENTS:
        raise BadRequest(f"tensor '{name}': shape {list(shape)} is empty, and too large beside its zero")
    return count


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
