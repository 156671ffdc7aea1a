"""Inference requests and responses as values, and the tensors that both hold on the wire."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from msgspec import UNSET, Struct

from moorage_common.contracts.tensors import Datatype
from moorage_common.errors import BadRequest, Internal
from moorage_runtime.v2.binary import from_raw, to_raw
from moorage_runtime.v2.datatypes import (
    DTYPES,
    MAX_NAME_BYTES,
    Array,
    Budget,
    Promise,
    datatype_of,
    element_count,
)
from moorage_runtime.v2.envelope import Tensor
from moorage_runtime.v2.json import from_json, to_json
from moorage_runtime.v2.nesting import openings

HEADER_LENGTH = "inference-header-content-length"

_JSON_HEADERS = {"content-type": "application/json"}


class InferRequest(Struct, frozen=True, eq=False):
    """A decoded request. `outputs` None means all; `binary` says per output, `binary_default` for the rest.

    `datatypes` are those on the wire: BF16 and FP32 are the same in memory.
    """

    inputs: dict[str, Array]
    id: str | None = None
    parameters: dict[str, Any] = {}
    outputs: tuple[str, ...] | None = None
    binary: dict[str, bool] = {}
    binary_default: bool = False
    datatypes: dict[str, Datatype] = {}

    def wants_binary(self, output: str) -> bool:
        return self.binary.get(output, self.binary_default)


class InferResponse(Struct, frozen=True, eq=False):
    """A decoded response; `outputs` keeps the server's order."""

    model_name: str
    model_version: str
    outputs: dict[str, Array]
    id: str | None = None
    parameters: dict[str, Any] = {}
    datatypes: dict[str, Datatype] = {}


@dataclass(frozen=True, slots=True)
class Encoded:
    """A body and its headers (lower-case names): Content-Type, and the JSON part's length where binary follows."""

    body: bytes
    headers: dict[str, str]


class Decoded:
    """The tensors of one message as they are decoded, JSON and binary ones mixed as they come."""

    __slots__ = ("_at", "_budget", "_raw", "arrays", "brackets", "datatypes")

    def __init__(self, raw: memoryview, limit_bytes: int) -> None:
        self.arrays: dict[str, Array] = {}
        self.datatypes: dict[str, Datatype] = {}
        self.brackets = 2
        """Brackets that a message with these tensors opens."""
        self._raw = raw
        self._at = 0
        self._budget = Budget(limit_bytes)

    def decode(self, tensors: Iterable[Tensor]) -> None:
        """Decode all of a message; the binary part must be used up exactly.

        Raises:
            BadRequest: whatever is wrong, with the tensor's name.
            TooLarge: they take more than the limit in memory.
        """
        for tensor in tensors:
            self._one(tensor)
        if self._at != len(self._raw):
            left = len(self._raw) - self._at
            raise BadRequest(f"{left} bytes of binary data belong to no tensor; check binary_data_size")

    def _one(self, tensor: Tensor) -> None:
        name = tensor.name
        if name in self.arrays or len(name) > MAX_NAME_BYTES:
            raise BadRequest(f"tensor '{name[:MAX_NAME_BYTES]}' is named twice, or its name is too long")
        promise = Promise(name, tensor.datatype, tensor.shape, element_count(name, tensor.shape))
        size = None if tensor.parameters is None else tensor.parameters.binary_data_size
        if size is not None:
            array = self._binary(promise, size, tensor)
            self.brackets += 3
        elif tensor.data is UNSET:
            raise BadRequest(f"tensor '{name}': neither data nor parameters.binary_data_size is given")
        else:
            array = from_json(promise, tensor.data, self._budget)
            self.brackets += 2 + (openings(tensor.shape) if bytes(memoryview(tensor.data)[:2]) == b"[[" else 1)
        self.arrays[name] = array
        self.datatypes[name] = tensor.datatype

    def _binary(self, promise: Promise, size: int, tensor: Tensor) -> Array:
        if tensor.data is not UNSET:
            raise BadRequest(f"tensor '{promise.name}': both data and binary_data_size are given; send one")
        begin, end = self._at, self._at + size
        if size < 0 or end > len(self._raw):
            raise BadRequest(f"tensor '{promise.name}': binary_data_size reaches past the body's end")
        self._at = end
        return from_raw(promise, self._raw[begin:end], self._budget)


def encode(
    document: dict[str, Any],
    key: str,
    arrays: Mapping[str, Array],
    *,
    binary: Callable[[str], bool],
    datatypes: Mapping[str, Datatype],
    finite: bool = False,
) -> Encoded:
    """`document` with `arrays` under `key`: those that `binary` says as raw bytes behind the JSON.

    Args:
        datatypes: what the arrays are on the wire; by numpy's type where it says nothing.
        finite: the floats are known to be finite as they are given.
    """
    tensors: list[dict[str, Any]] = []
    blobs: list[Any] = []
    for name, given in arrays.items():
        datatype = datatypes.get(name)
        array, is_finite = given, finite
        if datatype is None:
            datatype = datatype_of(array)
        elif array.dtype != DTYPES[datatype]:
            array, is_finite = _declared(name, array, datatype), False  # a narrower float may overflow
        tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": array.shape}
        if binary(name):
            blob = to_raw(array, datatype)
            tensor["parameters"] = {"binary_data_size": len(blob) if isinstance(blob, bytes) else blob.nbytes}
            blobs.append(blob)
        else:
            tensor["data"] = to_json(name, array, datatype, finite=is_finite)
        tensors.append(tensor)
    document[key] = tensors
    head = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if not blobs:
        return Encoded(head, _JSON_HEADERS.copy())
    headers = {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(head))}
    return Encoded(b"".join([head, *blobs]), headers)


def _declared(name: str, array: Array, datatype: Datatype) -> Array:
    """`array` as the datatype that is declared for it: without loss, or as floats of another width."""
    wanted = DTYPES[datatype]
    if datatype == "BYTES" and array.dtype.kind in "OUS":
        return array
    floats = wanted.kind == array.dtype.kind == "f"
    if datatype == "BYTES" or array.dtype.kind in "OUS" or not (floats or np.can_cast(array.dtype, wanted, "safe")):
        raise Internal(
            f"tensor '{name}' is {datatype_of(array)}, declared as {datatype}; correct the signature or the model",
            code="wrong_datatype",
        )
    with np.errstate(over="ignore"):
        return array.astype(wanted)
