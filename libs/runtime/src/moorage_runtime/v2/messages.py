"""Inference requests and responses as values, and what both share on the wire."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

import orjson

from moorage_common.contracts.tensors import Datatype
from moorage_common.errors import BadRequest
from moorage_runtime.v2.binary import from_raw, to_raw
from moorage_runtime.v2.datatypes import MAX_DEPTH, MAX_TENSORS, Array, datatype_of
from moorage_runtime.v2.json import from_json, to_json

HEADER_LENGTH = "inference-header-content-length"

_DATATYPES = frozenset(get_args(Datatype))


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A decoded request. `outputs` None means all; `binary` says per output, `binary_default` for the rest."""

    inputs: dict[str, Array]
    id: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] | None = None
    binary: dict[str, bool] = field(default_factory=dict)
    binary_default: bool = False

    def wants_binary(self, output: str) -> bool:
        return self.binary.get(output, self.binary_default)


@dataclass(frozen=True, slots=True)
class InferResponse:
    """A decoded response; `outputs` keeps the server's order."""

    model_name: str
    model_version: str
    outputs: dict[str, Array]
    id: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A body and its headers (lower-case names): Content-Type, and the JSON part's length where binary follows."""

    body: bytes
    headers: dict[str, str]


def split(body: bytes, header_length: str | None) -> tuple[dict[str, Any], memoryview]:
    """The JSON object at the start of `body` and the binary part after it.

    Args:
        header_length: value of `Inference-Header-Content-Length`; None when the whole body is JSON.

    Raises:
        BadRequest: a wrong header length, no JSON object.
    """
    view = memoryview(body)
    end = len(body)
    if header_length is not None:
        if not (header_length.isascii() and header_length.isdigit() and int(header_length[:12]) <= len(body)):
            raise BadRequest("Inference-Header-Content-Length must be the length of the JSON part, within the body")
        end = int(header_length[:12])
    try:
        document = orjson.loads(view[:end])
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise BadRequest("the body must be a JSON object")
    return document, view[end:]


def parameters_of(thing: Mapping[str, Any], what: str) -> dict[str, Any]:
    """`parameters` of a request or a tensor, an object of bounded depth; unknown ones are tolerated."""
    found = thing.get("parameters")
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise BadRequest(f"{what}: parameters must be an object")
    level: list[Any] = [found]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for parent in level
            if isinstance(parent, dict | list)
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
        if not level:
            return found
    raise BadRequest(f"{what}: parameters are nested deeper than {MAX_DEPTH}")


def objects(document: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """The list of named objects under `key`: at most MAX_TENSORS, names unique."""
    found = document.get(key)
    if not isinstance(found, list) or not all(isinstance(t, dict) and isinstance(t.get("name"), str) for t in found):
        raise BadRequest(f"{key} must be a list of objects, each with a name")
    if len(found) > MAX_TENSORS:
        raise BadRequest(f"{key} has {len(found)} tensors, at most {MAX_TENSORS} are allowed")
    names = [t["name"] for t in found]
    if len(set(names)) != len(names):
        raise BadRequest(f"{key} names a tensor twice")
    return found


def decode_tensors(tensors: list[dict[str, Any]], raw: memoryview) -> dict[str, Array]:
    """Decode JSON and binary tensors, mixed as they come; the binary part must be used up exactly.

    Raises:
        BadRequest: whatever is wrong, with the tensor's name.
    """
    arrays: dict[str, Array] = {}
    at = 0
    for tensor in tensors:
        name, datatype, shape = tensor["name"], tensor.get("datatype"), tensor.get("shape")
        if not isinstance(datatype, str) or datatype not in _DATATYPES:
            raise BadRequest(f"tensor '{name}': datatype must be one of {', '.join(get_args(Datatype))}")
        size = parameters_of(tensor, f"tensor '{name}'").get("binary_data_size")
        if size is None and "data" not in tensor:
            raise BadRequest(f"tensor '{name}': neither data nor parameters.binary_data_size is given")
        if size is None:
            arrays[name] = from_json(name, datatype, shape, tensor["data"])
            continue
        if type(size) is not int or size < 0 or at + size > len(raw):
            raise BadRequest(f"tensor '{name}': binary_data_size reaches past the body's end")
        arrays[name] = from_raw(name, datatype, shape, raw[at : at + size])
        at += size
    if at != len(raw):
        raise BadRequest(f"{len(raw) - at} bytes of binary data belong to no tensor; check binary_data_size")
    return arrays


def encode(document: dict[str, Any], key: str, arrays: Mapping[str, Array], *, binary: Mapping[str, bool]) -> Encoded:
    """`document` with `arrays` under `key`: those that `binary` says as raw bytes behind the JSON."""
    tensors: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for name, array in arrays.items():
        datatype = datatype_of(array)
        tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(array.shape)}
        if binary.get(name, False):
            blobs.append(to_raw(array, datatype))
            tensor["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            tensor["data"] = to_json(name, array)
        tensors.append(tensor)
    head = orjson.dumps({**document, key: tensors}, option=orjson.OPT_SERIALIZE_NUMPY)
    if not blobs:
        return Encoded(head, {"content-type": "application/json"})
    headers = {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(head))}
    return Encoded(b"".join([head, *blobs]), headers)
