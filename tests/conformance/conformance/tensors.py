"""Sample values of every datatype, and a reading and writing of the protocol that shares no code with Moorage's own.

A tensor's values are kept as the protocol's raw bytes: two tensors are equal when those are, NaN and the sign of zero
included.
"""

import base64
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

NUMBERS = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1", "INT16": "<i2",
    "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
DATATYPES = (*NUMBERS, "BYTES", "BF16")
COLUMNS = 2

TEXTS = ["", "a", "ä€", "𝄞 clef", 'quo"te', "back\\slash", "line\nbreak", "\u0001\u007f", "  spaces ", "0" * 300]
EXACT_IN_DOUBLES = 2**53 - 1


def _numbers(datatype: str) -> tuple[list[Any], list[Any]]:
    """Values that JSON can carry, and further ones that only raw bytes can."""
    if datatype == "BOOL":
        return [True, False, False, True], []
    dtype = np.dtype(NUMBERS[datatype])
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return [info.min, info.max, info.max - 1, info.min + 1, 0, 1, info.max // 3, 100], []
    bounds = np.finfo(dtype)
    finite = [bounds.max, bounds.min, bounds.smallest_subnormal, bounds.tiny, -0.0, 0.1, 1.0, -2.5]
    return finite, [np.nan, np.inf, -np.inf, bounds.eps]


def _bf16(beyond_json: bool) -> list[int]:
    """Bit patterns: the largest, the smallest, -0, 1, -2.5, 0.1; then infinities and NaN."""
    return [0x7F7F, 0xFF7F, 0x0001, 0x8000, 0x3F80, 0xC020, 0x3DCD, 0x0080] + (
        [0x7F80, 0xFF80, 0x7FC0, 0x0000] if beyond_json else []
    )


@dataclass(frozen=True)
class Tensor:
    """Values in row-major order as raw bytes."""

    datatype: str
    shape: tuple[int, ...]
    raw: bytes

    @property
    def elements(self) -> list[Any]:
        """Values as JSON has them."""
        if self.datatype == "BYTES":
            return [text.decode() for text in strings(self.raw)]
        if self.datatype == "BF16":
            return widened(self).elements
        found: list[Any] = np.frombuffer(self.raw, NUMBERS[self.datatype]).tolist()
        return found

    @property
    def nested(self) -> list[Any]:
        """The same, nested as the shape says."""
        found: Any = self.elements
        for size in reversed(self.shape[1:]):
            found = [found[at : at + size] for at in range(0, len(found), size)]
        return list(found)


def sample(datatype: str, *, beyond_json: bool, turned: bool = False, rows: int) -> Tensor:
    """A tensor of COLUMNS columns.

    Args:
        beyond_json: hold values that JSON cannot carry.
        turned: the values in another order, so that two inputs of one request differ.
        rows: the values are repeated up to so many rows.
    """
    if datatype == "BYTES":
        values: list[Any] = TEXTS
    elif datatype == "BF16":
        values = _bf16(beyond_json)
    else:
        finite, further = _numbers(datatype)
        values = finite + (further if beyond_json else [])
    values = values[::-1] if turned else values
    return tensor(datatype, (values * (1 + rows * COLUMNS // len(values)))[: rows * COLUMNS])


def item_bytes(datatype: str) -> int:
    """Raw bytes of an element; of BYTES at least so many on average."""
    return np.dtype(NUMBERS[datatype]).itemsize if datatype in NUMBERS else {"BF16": 2, "BYTES": 20}[datatype]


def tensor(datatype: str, values: Sequence[Any]) -> Tensor:
    """`values` (bit patterns for BF16) as a tensor of COLUMNS columns."""
    if datatype == "BYTES":
        texts = [text.encode() for text in values]
        raw = b"".join(struct.pack("<I", len(text)) + text for text in texts)
    elif datatype == "BF16":
        raw = np.array(values, "<u2").tobytes()
    else:
        raw = np.array(values, NUMBERS[datatype]).tobytes()
    return Tensor(datatype, (len(values) // COLUMNS, COLUMNS), raw)


def widened(sent: Tensor) -> Tensor:
    """BF16 as FP32, which holds it exactly."""
    wide = np.frombuffer(sent.raw, "<u2").astype("<u4") << 16
    return Tensor("FP32", sent.shape, wide.astype("<u4").tobytes())


def strings(raw: bytes) -> list[bytes]:
    """The elements of BYTES in raw form."""
    found, at = [], 0
    while at < len(raw):
        (size,) = struct.unpack_from("<I", raw, at)
        found.append(raw[at + 4 : at + 4 + size])
        at += 4 + size
    assert at == len(raw), "a BYTES element reaches past the tensor's end"
    return found


def from_json(datatype: str, shape: Sequence[int], data: Any) -> Tensor:
    """A tensor from flat or nested JSON data. Raises AssertionError for values of another kind than the datatype's."""
    flat = data
    while flat and isinstance(flat[0], list):
        flat = [value for part in flat for value in part]
    assert datatype != "BF16", "BF16 comes as JSON"
    kinds = {"BOOL": (bool,), "BYTES": (str,)}.get(datatype, (int, float) if datatype[0] in "FB" else (int,))
    wrong = {type(value).__name__ for value in flat if type(value) not in kinds}
    assert not wrong, f"{datatype} data holds {', '.join(sorted(wrong))}"
    made = tensor(datatype, flat)
    return Tensor(datatype, tuple(shape), made.raw)


def request(
    inputs: Mapping[str, Tensor],
    *,
    binary: Mapping[str, bool],
    nested: bool = False,
    **rest: Any,
) -> tuple[bytes, int | None]:
    """A request's body and, with binary tensors in it, the length of its JSON. `rest` are further members."""
    described, raw = [], []
    for name, one in inputs.items():
        entry: dict[str, Any] = {"name": name, "datatype": one.datatype, "shape": list(one.shape)}
        if binary[name]:
            entry["parameters"] = {"binary_data_size": len(one.raw)}
            raw.append(one.raw)
        else:
            entry["data"] = one.nested if nested else one.elements
        described.append(entry)
    head = json.dumps({**rest, "inputs": described}, ensure_ascii=False, allow_nan=False).encode()
    return head + b"".join(raw), len(head) if raw else None


@dataclass(frozen=True)
class Answer:
    """A decoded answer: its JSON, its tensors, and which of them came as raw bytes."""

    document: dict[str, Any]
    tensors: dict[str, Tensor]
    binary: dict[str, bool]


def _no_constant(text: str) -> Any:
    raise AssertionError(f"{text} is no JSON")


def answer(body: bytes, json_length: int | None) -> Answer:
    """Read an answer. Raises AssertionError for whatever does not fit together."""
    document = json.loads(body[:json_length], parse_constant=_no_constant)
    at = len(body) if json_length is None else json_length
    tensors, binary = {}, {}
    for output in document["outputs"]:
        name, datatype, shape = output["name"], output["datatype"], output["shape"]
        size = output.get("parameters", {}).get("binary_data_size")
        binary[name] = size is not None
        if size is None:
            tensors[name] = from_json(datatype, shape, output["data"])
            continue
        assert "data" not in output, f"{name} comes as data and as raw bytes"
        assert at + size <= len(body), f"{name} reaches past the body's end"
        tensors[name] = Tensor(datatype, tuple(shape), body[at : at + size])
        at += size
    assert at == len(body), f"{len(body) - at} bytes are left over after the last tensor"
    return Answer(document, tensors, binary)


def packed(one: Tensor) -> dict[str, Any]:
    """A tensor for a job's JSON."""
    return {"datatype": one.datatype, "shape": list(one.shape), "raw": base64.b64encode(one.raw).decode()}


def unpacked(one: Mapping[str, Any]) -> Tensor:
    """A tensor of a driver's JSON."""
    return Tensor(one["datatype"], tuple(one["shape"]), base64.b64decode(one["raw"]))


def first_difference(expected: Tensor, got: Tensor) -> str:
    """Empty when the two are equal, bit for bit."""
    if (expected.datatype, expected.shape) != (got.datatype, got.shape):
        return f"{got.datatype} {list(got.shape)} instead of {expected.datatype} {list(expected.shape)}"
    if expected.raw == got.raw:
        return ""
    pairs = list(zip(expected.elements, got.elements, strict=False))
    at = next((at for at, (want, have) in enumerate(pairs) if repr(want) != repr(have)), 0)
    return f"element {at} is {pairs[at][1]!r:.60} instead of {pairs[at][0]!r:.60}" if pairs else "no elements"
