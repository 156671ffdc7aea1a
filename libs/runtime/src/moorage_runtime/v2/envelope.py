"""A message's JSON around the tensors' data, parsed by msgspec into typed structs; data stays text.

What is parsed at once is small: a longer message is parsed into fields that are text first, and each is decoded once
its length was looked at. Lists of tensors are then structs of MAX_TENSORS optional fields, which bounds them in C.
Unknown fields are skipped, nothing is built of them.
"""

from typing import Annotated, Any, TypeVar, get_args

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from moorage_common.contracts.tensors import Datatype
from moorage_common.errors import BadRequest, TooLarge
from moorage_runtime.v2.datatypes import (
    MAX_ID_BYTES,
    MAX_NAME_BYTES,
    MAX_PARAMETERS_BYTES,
    MAX_RANK,
    MAX_TENSORS,
    WINDOW_BYTES,
)
from moorage_runtime.v2.scan import refuse_unusual

_LARGE_BYTES = 1024 * 1024
_MAX_SHAPE_BYTES = 1024

Dimension = Annotated[int, Meta(ge=0)]
Shape = Annotated[list[Dimension], Meta(max_length=MAX_RANK)]
Parameters = dict[str, Any] | None


class TensorParameters(Struct):
    """What a tensor's parameters say to the codec."""

    binary_data_size: int | None = None


class OutputParameters(Struct):
    """What a requested output's parameters say to the codec."""

    binary_data: bool | None = None


class Tensor(Struct):
    """A tensor around its data, which is JSON text that was parsed once."""

    name: str
    datatype: Datatype
    shape: Shape
    data: Raw | UnsetType = UNSET
    parameters: TensorParameters | None = None


class Output(Struct):
    """A requested output."""

    name: str
    parameters: OutputParameters | None = None


Tensors = Annotated[list[Tensor], Meta(max_length=MAX_TENSORS)]
Outputs = Annotated[list[Output], Meta(max_length=MAX_TENSORS)]


class Request(Struct):
    """A request around its tensors' data."""

    inputs: Tensors
    id: str | None = None
    parameters: Parameters = None
    outputs: Outputs | None = None


class Response(Struct):
    """A response around its tensors' data."""

    outputs: Tensors
    model_name: str = ""
    model_version: str = ""
    id: str | None = None
    parameters: Parameters = None


def _texts(name: str, optional: str, required: str = "", **lists: Any) -> Any:
    """A struct whose fields are text still, but for the lists."""
    fields: list[tuple[str, Any, Any]] = [(field, kind | UnsetType, UNSET) for field, kind in lists.items()]
    fields += [(field, Raw | UnsetType, UNSET) for field in optional.split()]
    must: list[tuple[str, Any]] = [(field, Raw) for field in required.split()]
    return msgspec.defstruct(name, [*must, *fields])


def _bounded(item: Any) -> Any:
    """A list of at most MAX_TENSORS of `item`."""
    fields: list[tuple[str, Any, Any]] = [(f"t{i}", item | UnsetType, UNSET) for i in range(MAX_TENSORS)]
    return msgspec.defstruct(f"{item.__name__}s", fields, array_like=True, forbid_unknown_fields=True)


_TENSORS = _bounded(_texts("TensorText", "data parameters", "name datatype shape"))
_OUTPUTS = _bounded(_texts("OutputText", "parameters", "name"))
_Parser = msgspec.json.Decoder

_request = _Parser(Request)
_response = _Parser(Response)
_request_texts = _Parser(_texts("RequestText", "id parameters", inputs=_TENSORS, outputs=_OUTPUTS | None))
_response_texts = _Parser(_texts("ResponseText", "id parameters model_name model_version", outputs=_TENSORS))
_text = _Parser(str)
_optional_text = _Parser(str | None)
_datatype = _Parser(Datatype)
_shape = _Parser(Shape)
_tensor_parameters = _Parser(TensorParameters | None)
_output_parameters = _Parser(OutputParameters | None)
_parameters = _Parser(Parameters)

_T = TypeVar("_T")


def split(body: bytes | bytearray, header_length: str | None, limit_bytes: int) -> tuple[int, memoryview]:
    """Where the JSON at the start of `body` ends, and the binary part after it.

    Args:
        header_length: value of `Inference-Header-Content-Length`; None when the whole body is JSON.

    Raises:
        BadRequest: a wrong header length.
        TooLarge: more than `limit_bytes`.
    """
    size = len(body)
    if size > limit_bytes:
        raise TooLarge(f"the body is {size} bytes, at most {limit_bytes} are allowed; send fewer rows at a time")
    if header_length is None:
        return size, memoryview(b"")
    end = int(header_length) if header_length.isascii() and header_length.isdigit() and len(header_length) < 20 else -1
    if not 0 <= end <= size:
        raise BadRequest("Inference-Header-Content-Length must be the length of the JSON part, within the body")
    return end, memoryview(body)[end:]


def parse_request(body: bytes | bytearray, end: int) -> Request:
    """The request in `body` up to `end`.

    Raises:
        BadRequest: not JSON, not a request, more than MAX_TENSORS tensors, a field longer than allowed.
    """
    if end <= WINDOW_BYTES:
        return _parsed(_request, memoryview(body)[:end] if end < len(body) else body)
    texts = _large(_request_texts, body, end)
    if texts.inputs is UNSET:
        raise BadRequest("the body is not the protocol's message: it has no inputs")
    outputs = texts.outputs
    return Request(
        [_tensor(t, f"inputs[{i}]") for i, t in _items(texts.inputs)],
        _field(_optional_text, texts.id, "id", MAX_ID_BYTES),
        _field(_parameters, texts.parameters, "parameters", MAX_PARAMETERS_BYTES),
        None if outputs is UNSET or outputs is None else [_output(o, f"outputs[{i}]") for i, o in _items(outputs)],
    )


def parse_response(body: bytes | bytearray, end: int) -> Response:
    """The response in `body` up to `end`.

    Raises:
        BadRequest: not JSON, not a response, more than MAX_TENSORS tensors, a field longer than allowed.
    """
    if end <= WINDOW_BYTES:
        return _parsed(_response, memoryview(body)[:end] if end < len(body) else body)
    texts = _large(_response_texts, body, end)
    if texts.outputs is UNSET:
        raise BadRequest("the body is not the protocol's message: it has no outputs")
    return Response(
        [_tensor(t, f"outputs[{i}]") for i, t in _items(texts.outputs)],
        _field(_optional_text, texts.model_name, "model_name", MAX_NAME_BYTES) or "",
        _field(_optional_text, texts.model_version, "model_version", MAX_NAME_BYTES) or "",
        _field(_optional_text, texts.id, "id", MAX_ID_BYTES),
        _field(_parameters, texts.parameters, "parameters", MAX_PARAMETERS_BYTES),
    )


def _large(parser: "msgspec.json.Decoder[Any]", body: bytes | bytearray, end: int) -> Any:
    view = memoryview(body)[:end]
    if end > _LARGE_BYTES and b"\\" in body:
        refuse_unusual(view)  # the parser copies names of fields that hold escapes, however long they are
    return _parsed(parser, view)


def _items(bounded: Any) -> list[tuple[int, Any]]:
    return [(i, item) for i, item in enumerate(msgspec.structs.astuple(bounded)) if item is not UNSET]


def _tensor(text: Any, where: str) -> Tensor:
    return Tensor(
        _must(_text, text.name, f"{where}.name", MAX_NAME_BYTES),
        _must(_datatype, text.datatype, f"{where}.datatype", MAX_NAME_BYTES),
        _must(_shape, text.shape, f"{where}.shape", _MAX_SHAPE_BYTES),
        text.data,
        _field(_tensor_parameters, text.parameters, f"{where}.parameters", MAX_PARAMETERS_BYTES),
    )


def _output(text: Any, where: str) -> Output:
    return Output(
        _must(_text, text.name, f"{where}.name", MAX_NAME_BYTES),
        _field(_output_parameters, text.parameters, f"{where}.parameters", MAX_PARAMETERS_BYTES),
    )


def _field(parser: "msgspec.json.Decoder[_T]", raw: Any, where: str, most: int) -> _T | None:
    return None if raw is UNSET else _must(parser, raw, where, most)


def _must(parser: "msgspec.json.Decoder[_T]", raw: Any, where: str, most: int) -> _T:
    if memoryview(raw).nbytes > most:
        raise BadRequest(f"{where} is {memoryview(raw).nbytes} bytes long, at most {most} are allowed")
    return _parsed(parser, raw, f" ({where})")


def _parsed(parser: "msgspec.json.Decoder[_T]", text: Any, where: str = "") -> _T:
    try:
        return parser.decode(text)
    except msgspec.ValidationError as error:
        said = str(error).replace("`", "")
        if said.startswith("Invalid enum value"):
            said = f"datatype must be one of {', '.join(get_args(Datatype))}; {said[:100]}"
        raise BadRequest(f"the body is not the protocol's message: {said}{where}") from None
    except RecursionError:
        raise BadRequest("the JSON is nested too deep") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body is not JSON: {error}{where}") from None
