"""Both directions of both messages: the host decodes requests and encodes responses, clients the reverse.

Decoding holds a promise, docs/decisions/0010: with a body of at most `limit_bytes`, the decoded tensors take at most
`limit_bytes` too, or are refused before they are allocated, and what else decoding takes is a few MB.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from moorage_common.contracts.tensors import Datatype
from moorage_common.errors import BadRequest
from moorage_runtime.v2.datatypes import MAX_NAME_BYTES, REQUEST_LIMIT_BYTES, RESPONSE_LIMIT_BYTES, Array
from moorage_runtime.v2.envelope import Output, parse_request, parse_response, split
from moorage_runtime.v2.json import no_json
from moorage_runtime.v2.messages import Decoded, Encoded, InferRequest, InferResponse, encode
from moorage_runtime.v2.scan import refuse_deep

_NONE_DECLARED: dict[str, Datatype] = {}


def decode_request(
    body: bytes | bytearray, header_length: str | None = None, *, limit_bytes: int = REQUEST_LIMIT_BYTES
) -> InferRequest:
    """Decode an inference request.

    Args:
        header_length: value of `Inference-Header-Content-Length`, if the request bears it.
        limit_bytes: most bytes of the body, and of the tensors decoded; an element of BYTES counts 64 more.

    Raises:
        BadRequest: with a text that says which tensor is wrong and how.
        TooLarge: more than `limit_bytes`.
    """
    end, raw = split(body, header_length, limit_bytes)
    message = parse_request(body, end)
    outputs, binary = _wanted(message.outputs) if message.outputs else (None, {})
    tensors = Decoded(raw, limit_bytes)
    tensors.decode(message.inputs)
    if not tensors.arrays:
        raise BadRequest("inputs is empty; send at least one tensor")
    refuse_deep(body, end, tensors.brackets)
    parameters = message.parameters or {}
    default = parameters.get("binary_data_output", False)
    if not isinstance(default, bool):
        raise BadRequest("parameters.binary_data_output must be true or false")
    return InferRequest(tensors.arrays, message.id, parameters, outputs, binary, default, tensors.datatypes)


def _wanted(outputs: list[Output]) -> tuple[tuple[str, ...], dict[str, bool]]:
    """The requested outputs and what they say of binary data."""
    names = tuple(output.name for output in outputs)
    if len(set(names)) != len(names) or max(map(len, names)) > MAX_NAME_BYTES:
        raise BadRequest("outputs names an output twice, or by a name too long")
    said = {o.name: None if o.parameters is None else o.parameters.binary_data for o in outputs}
    return names, {name: choice for name, choice in said.items() if choice is not None}


def check_forms(request: InferRequest, outputs: Iterable[str], datatypes: Mapping[str, Datatype]) -> None:
    """Whether `outputs`, which are `datatypes`, have the form that the request asks for, before they are computed.

    Raises:
        BadRequest: BF16 as JSON.
    """
    for name in outputs:
        if datatypes.get(name) == "BF16" and not request.wants_binary(name):
            raise no_json(name)


def encode_response(
    request: InferRequest,
    *,
    model_name: str,
    model_version: str,
    outputs: Mapping[str, Array],
    datatypes: Mapping[str, Datatype] = _NONE_DECLARED,
    finite: bool = False,
) -> Encoded:
    """Encode the answer to `request`, its `id` echoed; binary where the request asked for it.

    Args:
        datatypes: what the signature says the outputs are; numpy's type says it where this does not, but never BF16.
        finite: the floats among `outputs` are known to be finite, so that it is not looked at again.

    Raises:
        BadRequest: an output is BF16 and not asked for as binary.
        Internal: `nan_output` or `not_utf8`: JSON cannot carry an output; `wrong_datatype`: it is not what it should.
    """
    document: dict[str, Any] = {"model_name": model_name, "model_version": model_version}
    if request.id is not None:
        document["id"] = request.id
    return encode(document, "outputs", outputs, binary=request.wants_binary, datatypes=datatypes, finite=finite)


def encode_request(
    inputs: Mapping[str, Array],
    *,
    id: str | None = None,  # noqa: A002 - the protocol's word
    parameters: Mapping[str, Any] | None = None,
    outputs: Sequence[str] | None = None,
    binary: bool | None = None,
    datatypes: Mapping[str, Datatype] = _NONE_DECLARED,
) -> Encoded:
    """Encode a request from named arrays.

    Args:
        outputs: names to answer with; None means all.
        binary: True sends raw bytes and asks for them, False is JSON both ways; None is JSON, except that tensors with
            NaN or Inf, and BF16, go as raw bytes.
        datatypes: what the model's metadata says the inputs are; BF16 is known by it alone.

    Raises:
        BadRequest: an array has no V2 datatype; BF16 with binary False.
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

    def as_raw(name: str) -> bool:
        return datatypes.get(name) == "BF16" or _not_finite(inputs[name]) if binary is None else binary

    return encode(document, "inputs", inputs, binary=as_raw, datatypes=datatypes)


def recode_request(request: InferRequest) -> Encoded:
    """Encode a decoded request again, all its tensors as raw bytes; what it asks of the answer stays as it was.

    Raises:
        BadRequest: an array has no V2 datatype.
        Internal: `wrong_datatype`, an array is not what `request.datatypes` says.
    """
    document: dict[str, Any] = {}
    if request.id is not None:
        document["id"] = request.id
    if request.parameters:
        document["parameters"] = request.parameters
    if request.outputs is not None:
        document["outputs"] = [_asked(name, request.binary.get(name)) for name in request.outputs]
    return encode(document, "inputs", request.inputs, binary=lambda _name: True, datatypes=request.datatypes)


def _asked(output: str, binary: bool | None) -> dict[str, Any]:
    return {"name": output} if binary is None else {"name": output, "parameters": {"binary_data": binary}}


def _not_finite(array: Array) -> bool:
    return array.dtype.kind == "f" and not bool(np.isfinite(array).all())


def decode_response(
    body: bytes, header_length: str | None = None, *, limit_bytes: int = RESPONSE_LIMIT_BYTES
) -> InferResponse:
    """Decode an inference response; BYTES come as object arrays of `bytes` (`texts` turns them into `str`).

    Raises:
        BadRequest: the body is not a V2 response.
        TooLarge: more than `limit_bytes`, of the body or of the tensors decoded.
    """
    end, raw = split(body, header_length, limit_bytes)
    message = parse_response(body, end)
    tensors = Decoded(raw, limit_bytes)
    tensors.decode(message.outputs)
    refuse_deep(body, end, tensors.brackets)
    return InferResponse(
        message.model_name,
        message.model_version,
        tensors.arrays,
        message.id,
        message.parameters or {},
        tensors.datatypes,
    )


def decode_json_tensors(tensors: Sequence[Mapping[str, Any]]) -> dict[str, Array]:
    """Arrays of V2 tensors that are JSON objects with `data`, as `Example.outputs` holds them.

    Raises:
        BadRequest: whatever is wrong, with the tensor's name.
    """
    try:
        body = orjson.dumps({"outputs": [dict(t) for t in tensors]})
    except (TypeError, ValueError) as error:  # a mapping may hold what no JSON does
        raise BadRequest(f"the tensors are not JSON: {error}") from None
    return decode_response(body).outputs
