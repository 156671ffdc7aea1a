"""Tensor data as raw bytes: the protocol's binary tensor extension, little-endian, row-major.

BYTES elements are a 4-byte length and the bytes each.
"""

import struct

import numpy as np

from moorage_common.errors import BadRequest
from moorage_runtime.v2.datatypes import DTYPES, Array, byte_strings, element_count, object_array

_LENGTH = struct.Struct("<I")


def from_raw(name: str, datatype: str, shape: object, raw: memoryview) -> Array:
    """Decode one tensor from exactly `raw`; numbers are a read-only view of it, nothing is copied.

    Raises:
        BadRequest: another size than shape and datatype promise.
    """
    count = element_count(name, shape)
    dims = tuple(shape) if isinstance(shape, list) else ()
    if datatype == "BYTES":
        return _strings(name, count, raw).reshape(dims)
    wire = np.dtype("<u2") if datatype == "BF16" else DTYPES[datatype]
    if count * wire.itemsize != len(raw):
        raise BadRequest(
            f"tensor '{name}': shape {shape} of {datatype} is {count * wire.itemsize} bytes, "
            f"binary_data_size says {len(raw)}"
        )
    flat = np.frombuffer(raw, dtype=np.uint8 if datatype == "BOOL" else wire)
    if datatype == "BOOL":
        flat = flat != 0
    elif datatype == "BF16":
        flat = (flat.astype("<u4") << 16).view("<f4")
    return flat.reshape(dims)


def _strings(name: str, count: int, raw: memoryview) -> Array:
    if count * _LENGTH.size > len(raw):
        raise BadRequest(f"tensor '{name}': {len(raw)} bytes cannot hold {count} BYTES elements")
    values: list[bytes] = []
    at = 0
    for _ in range(count):
        end = at + _LENGTH.size
        if end <= len(raw):
            at, end = end, end + int(_LENGTH.unpack_from(raw, at)[0])
        if end > len(raw):
            raise BadRequest(f"tensor '{name}': a BYTES element reaches past the tensor's end")
        values.append(bytes(raw[at:end]))
        at = end
    if at != len(raw):
        raise BadRequest(f"tensor '{name}': {len(raw) - at} bytes are left over after {count} BYTES elements")
    return object_array(values, (count,))


def to_raw(array: Array, datatype: str) -> bytes:
    """Encode `array` (float32 for BF16, rounded to nearest even as hardware does)."""
    if datatype == "BYTES":
        return b"".join(part for value in byte_strings(array) for part in (_LENGTH.pack(len(value)), value))
    if datatype == "BF16":
        bits = np.ascontiguousarray(array, dtype="<f4").view("<u4")
        rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
        return np.where(np.isnan(array), 0x7FC0, rounded).astype("<u2").tobytes()
    return array.astype(DTYPES[datatype], copy=False).tobytes()
