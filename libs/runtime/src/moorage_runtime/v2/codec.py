"""Both directions of both messages: the host decodes requests and encodes responses, clients the reverse."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from moorage_common.errors import BadRequest
from moorage_runtime.v2.datatypes import Array
from moorage_runtime.v2.messages import (
    Encoded,
    InferRequest,
    InferResponse,
    decode_tensors,
    encode,
    objects,
    parameters_of,
    split,
)


def decode_request(body: bytes, header_length: str | None = None) -> InferRequest:
    """Decode an inference request.

    Args:
        header_length: value of `Inference-Header-Content-Length`, if the request bears it.

    Raises:
        BadRequest: with a text that says which tensor is wrong and how.
    """
    document, raw = split(body, header_length)
    request_id = document.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise BadRequest("id must be a string")
    parameters = parameters_of(document, "request")
    tensors = objects(document, "inputs")
    if not tensors:
        raise BadRequest("inputs is empty; send at least one tensor")
    wanted = None if document.get("outputs") is None else objects(document, "outputs")
    binary = {}
    for output in wanted or []:
        choice = parameters_of(output, f"output '{output['name']}'").get("binary_data")
        if choice is not None:
            binary[output["name"]] = choice is True
    return InferRequest(
        inputs=decode_tensors(tensors, raw),
        id=request_id,
        parameters=parameters,
        outputs=tuple(o["name"] for o in wanted) if wanted else None,
        binary=binary,
        binary_default=parameters.get("binary_data_output") is True,
    )


def encode_response(
    request: InferRequest, *, model_name: str, model_version: str, outputs: Mapping[str, Array]
) -> Encoded:
    """Encode the answer to `request`, its `id` echoed; binary where the request asked for it.

    Raises:
        Internal: `nan_output` or `not_utf8`: JSON cannot carry an output.
    """
    document: dict[str, Any] = {"model_name": model_name, "model_version": model_version}
    if request.id is not None:
        document["id"] = request.id
    return encode(document, "outputs", outputs, binary={name: request.wants_binary(name) for name in outputs})


def encode_request(
    inputs: Mapping[str, Array],
    *,
    id: str | None = None,  # noqa: A002 - the protocol's word
    parameters: Mapping[str, Any] | None = None,
    outputs: Sequence[str] | None = None,
    binary: bool | None = None,
) -> Encoded:
    """Encode a request from named arrays.

    Args:
        outputs: names to answer with; None means all.
        binary: True sends raw bytes and asks for them, False is JSON both ways; None is JSON, except that tensors with
            NaN or Inf go as raw bytes.

    Raises:
        BadRequest: an array has no V2 datatype.
        Internal: `nan_output` when binary is False and an input holds NaN or Inf.
    """
    document: dict[str, Any] = {}
    if id is not None:
        document["id"] = id
    wanted_parameters = dict(parameters or {})
    if binary:
        wanted_parameters["binary_data_output"] = True
    if wanted_parameters:
        document["parameters"] = wanted_parameters
    if outputs is not None:
        document["outputs"] = [{"name": name} for name in outputs]
    as_raw = {name: _not_finite(a) if binary is None else binary for name, a in inputs.items()}
    return encode(document, "inputs", inputs, binary=as_raw)


def _not_finite(array: Array) -> bool:
    return array.dtype.kind == "f" and not bool(np.isfinite(array).all())


def decode_response(body: bytes, header_length: str | None = None) -> InferResponse:
    """Decode an inference response; BYTES come as object arrays of `bytes` (`texts` turns them into `str`).

    Raises:
        BadRequest: the body is not a V2 response.
    """
    document, raw = split(body, header_length)
    return InferResponse(
        model_name=str(document.get("model_name", "")),
        model_version=str(document.get("model_version", "")),
        outputs=decode_tensors(objects(document, "outputs"), raw),
        id=document.get("id"),
        parameters=parameters_of(document, "response"),
    )


def decode_json_tensors(tensors: Sequence[Mapping[str, Any]]) -> dict[str, Array]:
    """Arrays of V2 tensors that are JSON objects with `data`, as `Example.outputs` holds them.

    Raises:
        BadRequest: whatever is wrong, with the tensor's name.
    """
    return decode_tensors(objects({"tensors": [dict(t) for t in tensors]}, "tensors"), memoryview(b""))
