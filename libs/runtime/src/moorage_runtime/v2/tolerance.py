"""Whole numbers and booleans that a client writes as JSON numbers of another kind: taken where nothing is lost.

Clients whose every number is a float write 1 as `1.0` and true as `1.0`. Nothing here loops over elements in Python.
"""

import struct
from itertools import compress, repeat
from operator import is_

import msgspec
import numpy as np

from moorage_common.contracts.tensors import Datatype
from moorage_common.errors import BadRequest
from moorage_runtime.v2.datatypes import DTYPES, Array

_EXACT = 2.0**53
"""Up to this, a float is one whole number; from here on, an integer may have become another on its way to a float."""

_floats = msgspec.json.Decoder(list[float]).decode
_numbers = msgspec.json.Decoder(list[int | float]).decode
_flags = msgspec.json.Decoder(list[bool | int | float]).decode


def written_otherwise(name: str, datatype: Datatype, text: bytes) -> Array:
    """Decode a flat list of BOOL or of an integer datatype. Integers among the floats stay exact.

    Raises:
        msgspec.DecodeError: a value is no number.
        BadRequest: a fraction; a float beyond 2^53; a value that the datatype cannot hold; for BOOL not 0 or 1.
    """
    return _as_flags(name, text) if datatype == "BOOL" else _as_integers(name, datatype, text)


def _as_flags(name: str, text: bytes) -> Array:
    values = _flags(text)
    if values.count(0) + values.count(1) != len(values):  # True and 1.0 equal 1
        raise BadRequest(f"tensor '{name}': BOOL data must be true or false (or 1 or 0), found another number")
    return np.frombuffer(struct.pack(f"{len(values)}?", *values), np.bool_)


def _as_integers(name: str, datatype: Datatype, text: bytes) -> Array:
    floats = np.array(_floats(text), np.float64)
    if not (np.trunc(floats) == floats).all():
        raise BadRequest(f"tensor '{name}': {datatype} data must be whole numbers, found a fraction")
    places = np.flatnonzero(np.abs(floats) >= _EXACT)
    large = _large(name, text, places) if places.size else []
    floats[places] = 0
    bounds = np.iinfo(DTYPES[datatype])
    holds = range(int(bounds.min), int(bounds.max) + 1).__contains__
    if not all(map(holds, (int(floats.min(initial=0)), int(floats.max(initial=0)), *large))):
        raise BadRequest(f"tensor '{name}': a value does not fit {datatype}")
    array = floats.astype(DTYPES[datatype])
    array[places] = np.array(large, DTYPES[datatype])
    return array


def _large(name: str, text: bytes, places: Array) -> list[int]:
    """The values at `places`, all of at least 2^53."""
    values = list(map(_numbers(text).__getitem__, places.tolist()))
    floats = compress(values, map(is_, map(type, values), repeat(float)))
    if max(map(abs, floats), default=0.0) > _EXACT:
        raise BadRequest(f"tensor '{name}': floats beyond 2^53 are no exact whole numbers; write them as integers")
    return list(map(int, values))
