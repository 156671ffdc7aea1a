"""Feast's types: how an entity value is encoded into a key, and a stored value decoded into JSON and a V2 datatype.

The key encoding is Feast's `entity_key_serialization_version` 3: all integers little-endian,
`<number of keys> (<STRING> <length> <join key>)* (<type> <length> <value>)*`, join keys sorted.
"""

import base64
import binascii
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from moorage_common.contracts.tensors import Datatype
from moorage_common.errors import BadRequest
from moorage_feature_proxy.feast_protos import Value, ValueType

STRING = int(ValueType.STRING)
_NO_TIMESTAMP = -(2**63)
"""Feast stores pandas' NaT as this number of seconds."""


@dataclass(frozen=True, slots=True)
class FeatureType:
    """A Feast type that can be served.

    Attributes:
        name: Feast's, as in `ValueType` (`DOUBLE`, `INT64_LIST`).
        datatype: V2's, of the value or of the elements of the list.
        field: of the `Value` message that holds it.
        convert: a protobuf value, or one element of the list, to JSON; None where there is none.
    """

    name: str
    datatype: Datatype
    field: str
    is_list: bool
    convert: Callable[[Any], Any]


def _as_is(value: Any) -> Any:
    return value


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _seconds(value: int) -> int | None:
    return value if value != _NO_TIMESTAMP else None


_SCALARS: dict[str, tuple[Datatype, Callable[[Any], Any]]] = {
    "BYTES": ("BYTES", _text),
    "STRING": ("BYTES", _as_is),
    "INT32": ("INT32", _as_is),
    "INT64": ("INT64", _as_is),
    "DOUBLE": ("FP64", _finite),
    "FLOAT": ("FP32", _finite),
    "BOOL": ("BOOL", _as_is),
    "UNIX_TIMESTAMP": ("INT64", _seconds),
}


def _feature_types() -> dict[int, FeatureType]:
    found = {}
    for name, (datatype, convert) in _SCALARS.items():
        for full, is_list in ((name, False), (f"{name}_LIST", True)):
            found[int(ValueType.Enum.Value(full))] = FeatureType(
                name=full, datatype=datatype, field=f"{full.lower()}_val", is_list=is_list, convert=convert
            )
    return found


FEATURE_TYPES = _feature_types()
"""By number of `ValueType`: the scalars BYTES (base64 in JSON, as protobuf's JSON has it), STRING, INT32, INT64,
DOUBLE, FLOAT, BOOL, UNIX_TIMESTAMP (seconds), and lists of them."""


def type_name(number: int) -> str:
    """`ValueType`'s name of `number`, or the number where this version of Feast has none."""
    return str(ValueType.Enum.Name(number)) if number in ValueType.Enum.values() else str(number)


def decode(kind: FeatureType, stored: bytes | None) -> Any:
    """The JSON value of a stored one; None where it is absent, null, not finite or not of the type declared."""
    if not stored:
        return None
    value = Value.FromString(stored)
    if value.WhichOneof("val") != kind.field:
        return None
    found = getattr(value, kind.field)
    if kind.is_list:
        return [kind.convert(one) for one in found.val]
    return kind.convert(found)


def _integer(low: int, high: int, form: str) -> Callable[[Any], bytes]:
    def encode(value: Any) -> bytes:
        if type(value) is not int or not low <= value <= high:
            raise ValueError
        return struct.pack(form, value)

    return encode


def _string(value: Any) -> bytes:
    if not isinstance(value, str):
        raise ValueError
    return value.encode()


def _base64(value: Any) -> bytes:
    return base64.b64decode(_string(value), validate=True)


_INT64 = _integer(-(2**63), 2**63 - 1, "<q")

_ENCODERS: dict[int, tuple[str, Callable[[Any], bytes]]] = {
    int(ValueType.STRING): ("a string", _string),
    int(ValueType.BYTES): ("bytes as a base64 string", _base64),
    int(ValueType.INT32): ("an integer of 32 bits", _integer(-(2**31), 2**31 - 1, "<i")),
    int(ValueType.INT64): ("an integer of 64 bits", _INT64),
    int(ValueType.UNIX_TIMESTAMP): ("an integer of seconds since 1970", _INT64),
}

ENTITY_TYPES = frozenset(_ENCODERS)
"""Types that Feast can encode into a key."""


def encode_entities(join_key: str, kind: int, values: Sequence[Any]) -> list[bytes]:
    """One key part a row. Raises BadRequest at the first value that is not of the join key's type."""
    wanted, encode = _ENCODERS[kind]
    parts = []
    for row, value in enumerate(values):
        try:
            encoded = encode(value)
        except (ValueError, binascii.Error):
            message = f"entities.{join_key}[{row}] must be {wanted}, and is {_shown(value)}"
            raise BadRequest(message, code="entity_type_mismatch") from None
        parts.append(struct.pack("<II", kind, len(encoded)) + encoded)
    return parts


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "..."


def key_prefix(join_keys: Sequence[str]) -> bytes:
    """The part of the key before the values; `join_keys` sorted."""
    parts = [struct.pack("<I", len(join_keys))]
    for name in join_keys:
        encoded = name.encode()
        parts.append(struct.pack("<II", STRING, len(encoded)) + encoded)
    return b"".join(parts)


def project_of(key: bytes) -> bytes | None:
    """The project at the end of a key, or None where it is no key of Feast's."""
    try:
        count, place = _word(key, 0), 4
        for _part in range(2 * count):
            place += 8 + _word(key, place + 4)
    except struct.error:
        return None
    return key[place:] if place < len(key) else None


def _word(key: bytes, place: int) -> int:
    number: int = struct.unpack_from("<I", key, place)[0]
    return number
