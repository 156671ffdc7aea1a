"""Tensor data as raw bytes: the protocol's binary tensor extension, little-endian, row-major.

BYTES elements are a 4-byte length and the bytes each.
"""

import struct

import numpy as np

from moorage_common.errors import BadRequest
from moorage_runtime.v2.datatypes import DTYPES, Array, Budget, Promise, byte_strings, object_array

_LENGTH = struct.Struct("<I")


def wire_bytes(datatype: str) -> int:
    """Bytes of one number in binary data."""
    return 2 if datatype == "BF16" else DTYPES[datatype].itemsize


def from_raw(promise: Promise, raw: memoryview, budget: Budget) -> Array:
    """Decode one tensor from exactly `raw`; numbers are a read-only view of it, nothing is copied but BF16.

    Args:
        budget: what the tensor costs is taken from it before it is allocated.

    Raises:
        BadRequest: another size than shape and datatype promise.
        TooLarge: the budget is used up.
    """
    datatype, shape, count = promise.datatype, promise.shape, promise.count
    if datatype == "BYTES":
        return _strings(promise, raw, budget).reshape(shape)
    if count * wire_bytes(datatype) != len(raw):
        raise BadRequest(
            f"tensor '{promise.name}': shape {shape} of {datatype} is {count * wire_bytes(datatype)} bytes, "
            f"binary_data_size says {len(raw)}"
        )
    budget.take_elements(promise)
    if datatype == "BF16":
        return widened(np.frombuffer(raw, dtype="<u2")).reshape(shape)
    if datatype == "BOOL":
        flags = np.ndarray(shape, np.uint8, raw)
        # Any byte is a truth value to the protocol, only 0 and 1 are to numpy.
        return flags.view(np.bool_) if not count or flags.max() <= 1 else flags != 0
    return np.ndarray(shape, DTYPES[datatype], raw)


def _strings(promise: Promise, raw: memoryview, budget: Budget) -> Array:
    name, count = promise.name, promise.count
    if count * _LENGTH.size > len(raw):
        raise BadRequest(f"tensor '{name}': {len(raw)} bytes cannot hold {count} BYTES elements")
    budget.take_elements(promise)
    budget.take(len(raw) - count * _LENGTH.size)
    values = [b""] * count
    at, size = 0, len(raw)
    length = _LENGTH.unpack_from
    for i in range(count):
        end = at + 4
        if end <= size:
            at, end = end, end + length(raw, at)[0]
        if end > size:
            raise BadRequest(f"tensor '{name}': a BYTES element reaches past the tensor's end")
        values[i] = bytes(raw[at:end])
        at = end
    if at != size:
        raise BadRequest(f"tensor '{name}': {size - at} bytes are left over after {count} BYTES elements")
    return object_array(values, (count,))


def widened(bits: Array) -> Array:
    """BF16 given as uint16 as the float32 that it is in memory."""
    wide = bits.astype("<u4")
    wide <<= 16
    return wide.view("<f4")


def narrowed(array: Array) -> Array:
    """Float32 as the BF16 that it is on the wire, as uint16: rounded to nearest even as hardware does."""
    bits = np.ascontiguousarray(array, dtype="<f4").view("<u4")
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return np.where(np.isnan(array), 0x7FC0, rounded).astype("<u2").reshape(array.shape)


def to_raw(array: Array, datatype: str) -> bytes | Array:
    """`array` (float32 for BF16) as contiguous bytes.

    Numbers that lie so already are not copied.
    """
    if datatype == "BYTES":
        return b"".join([part for value in byte_strings(array) for part in (_LENGTH.pack(len(value)), value)])
    if datatype == "BF16":
        return narrowed(array)
    return np.ascontiguousarray(array, dtype=DTYPES[datatype])
