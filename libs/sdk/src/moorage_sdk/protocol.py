"""The Open Inference Protocol as the client speaks it: what is sent for a call and what an answer means. Pure."""

import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np

from moorage_common.contracts.host_calls import REQUEST_ID
from moorage_common.contracts.tensors import DATA_FORMATS, Datatype, TensorSpec
from moorage_common.errors import MoorageError
from moorage_runtime.v2 import DTYPES, HEADER_LENGTH, Array, Encoded, decode_response, encode_request
from moorage_sdk.answer import Answer
from moorage_sdk.errors import MoorageApiError
from moorage_sdk.frames import frame_of
from moorage_sdk.inputs import WrongInputs, named_arrays
from moorage_sdk.retry import Repeat
from moorage_sdk.wire import Call, Reply, to_json

GZIP_FROM_BYTES = 1024
"""A smaller body does not get smaller."""


class InferOptions(TypedDict, total=False):
    """How a model is asked; everything may be left out.

    Keys:
        version: ask this version, whatever the traffic.
        outputs: names of the outputs wanted; all when left out.
        id: an id of the caller's own, which the answer repeats.
        parameters: of the request, handed to the model's server.
        binary: tensors as raw bytes both ways (the default), or False for JSON. A V2 request given as such is JSON.
        gzip: compress the request, and ask for a compressed answer; pays for large JSON over a slow network.
        frame: return a DataFrame, see `frame_of`.
        raw: return the protocol's own JSON.
        timeout_s: for the call, waits and further attempts included; 60 when left out.
        retries: times the call may be sent again, see `retry`; the client's when left out.
    """

    version: int | None
    outputs: Sequence[str] | None
    id: str | None
    parameters: Mapping[str, Any] | None
    binary: bool
    gzip: bool
    frame: bool
    raw: bool
    timeout_s: float | None
    retries: int | None


@dataclass(frozen=True, slots=True)
class Metadata:
    """What the router says a model takes and gives."""

    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    is_data: bool
    """The version's format holds data alone, so that answering twice does nothing but compute twice."""


NOTHING_KNOWN = Metadata([], [], is_data=False)


def model_path(name: str, version: int | None = None) -> str:
    return f"/v2/models/{name}" if version is None else f"/v2/models/{name}/versions/{version}"


def is_request(inputs: Any) -> bool:
    """Whether `inputs` is a V2 request already, rather than an input that happens to be called `inputs`."""
    if not isinstance(inputs, Mapping):
        return False
    tensors = inputs.get("inputs")
    return isinstance(tensors, list) and bool(tensors) and all(isinstance(t, dict) and "name" in t for t in tensors)


def metadata_call(path: str) -> Call:
    return Call("GET", path, repeat=Repeat.READS)


def ready_call(path: str) -> Call:
    """One look: who waits for readiness asks again by itself."""
    return Call("GET", f"{path}/ready", repeat=Repeat.READS, retries=0)


def is_unready(error: MoorageApiError) -> bool:
    """Whether the refusal of `ready_call` means "not yet", also while the router does not know the model."""
    return error.status in (0, 404, 503)


def read_metadata(reply: Reply) -> Metadata:
    found = reply.json()
    platform = str(found.get("platform", "")).removeprefix("moorage_")
    return Metadata(
        inputs=[_spec(tensor) for tensor in found["inputs"]],
        outputs=[_spec(tensor) for tensor in found["outputs"]],
        is_data=platform in DATA_FORMATS,
    )


def _spec(tensor: Mapping[str, Any]) -> TensorSpec:
    columns = (tensor.get("parameters") or {}).get("columns")
    return TensorSpec.model_validate({"columns": columns, **tensor})


def infer_call(path: str, inputs: Any, known: Metadata, options: InferOptions) -> Call:
    """What is sent.

    Raises:
        WrongInputs: the inputs do not fit the model, or have no form in the protocol.
    """
    encoded = _ready_made(inputs, options) if is_request(inputs) else _encoded(inputs, known, options)
    body, headers = encoded.body, {**encoded.headers, "accept-encoding": "identity"}
    if options.get("gzip"):
        headers["accept-encoding"] = "gzip"
        if len(body) >= GZIP_FROM_BYTES:
            body, headers["content-encoding"] = gzip.compress(body, 1), "gzip"
    return Call(
        "POST",
        f"{path}/infer",
        headers,
        body,
        Repeat.COMPUTES if known.is_data else Repeat.ACTS,
        timeout_s=options.get("timeout_s"),
        retries=options.get("retries"),
    )


def _ready_made(request: Mapping[str, Any], options: InferOptions) -> Encoded:
    if given := [key for key in ("id", "parameters", "outputs") if key in options]:
        raise WrongInputs(f"a V2 request has its own {', '.join(given)}; put it there")
    try:
        return Encoded(to_json(request), {"content-type": "application/json"})
    except (TypeError, ValueError) as error:
        raise WrongInputs(f"the V2 request is not JSON ({error}); give arrays by input name instead") from error


def _encoded(inputs: Any, known: Metadata, options: InferOptions) -> Encoded:
    try:
        arrays = named_arrays(inputs, known.inputs)
        return encode_request(
            arrays,
            id=options.get("id"),
            parameters=options.get("parameters"),
            outputs=options.get("outputs"),
            binary=options.get("binary", True) and not options.get("raw", False),
            datatypes=_bf16_among(arrays, known),
        )
    except MoorageError as error:
        raise WrongInputs(error.message) from error


def _bf16_among(arrays: Mapping[str, Array], known: Metadata) -> dict[str, Datatype]:
    """The inputs that go as BF16, of which numpy knows nothing. What is no number is the model's to refuse."""
    return {
        tensor.name: tensor.datatype
        for tensor in known.inputs
        if tensor.datatype == "BF16" and tensor.name in arrays and arrays[tensor.name].dtype == DTYPES["BF16"]
    }


def read_answer(reply: Reply, inputs: Any, known: Metadata, options: InferOptions) -> Any:
    """An `Answer`; with `frame` a DataFrame, with `raw` the protocol's JSON.

    Raises:
        MoorageApiError: what came is no V2 answer (code `bad_answer`).
    """
    try:
        if options.get("raw"):
            return reply.json()
        found = decode_response(reply.body, reply.headers.get(HEADER_LENGTH))
    except (MoorageError, ValueError) as error:
        text = f"the answer is not of the Open Inference Protocol ({error}); is the router's address right?"
        raise MoorageApiError(reply.status, "bad_answer", text) from error
    answer = Answer(
        {name: _own(array) for name, array in found.outputs.items()},
        model_name=found.model_name,
        model_version=found.model_version,
        request_id=reply.headers.get(REQUEST_ID, ""),
        id=found.id,
        parameters=found.parameters,
    )
    return frame_of(answer, known.outputs, inputs) if options.get("frame") else answer


def _own(array: Array) -> Array:
    """Binary tensors are read-only views of the body, unaligned where its JSON part has an odd length."""
    return array if array.flags.writeable and array.flags.aligned else np.array(array)
