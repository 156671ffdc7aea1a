"""What a router asks of a host and what it gets, whichever way the call came."""

import asyncio
import functools
import time
from typing import NamedTuple
from urllib.parse import unquote

import orjson
import structlog

from moorage_common.contracts import host_calls
from moorage_common.contracts.feedback import encode_output
from moorage_common.errors import MoorageError, NotFound
from moorage_runtime.inference import Answer, Inference, OutputState
from moorage_runtime.v2 import HEADER_LENGTH
from moorage_runtime.v2.compression import is_packed, packed, unpack

log = structlog.get_logger()

_JSON = b"content-type: application/json\r\n"
_PLAIN = {"content-type": "application/json"}
_HEADER_LENGTH = HEADER_LENGTH.encode()
_COMPACT = host_calls.COMPACT.encode()


class Asked(NamedTuple):
    """What a call's head says.

    Attributes:
        header_length: of the JSON before binary tensors, as it came.
        packing: Content-Encoding of the body, None for a plain one.
        accepted: Accept-Encoding.
        compact: the output of which a compact one is wanted, `host_calls.FIRST` for the first, None without.
    """

    model: str
    version: int
    header_length: str | None
    packing: str | None
    accepted: str
    compact: str | None = None


class Reply(NamedTuple):
    """`fields` are encoded header lines for the caller; times in microseconds; `output` is the encoded compact one."""

    status: int
    fields: bytes
    body: bytes
    rows: int = 0
    service_us: int = 0
    queue_us: int = 0
    state: OutputState = "ok"
    output: bytes = b""


def asked_of(path: bytes, fields: dict[bytes, bytes]) -> Asked | None:
    """The call of `POST path`; None for another path. Raises NotFound for a version that is no number."""
    match path.decode("latin-1").split("/"):
        case ["", "v2", "models", model, "versions", version, "infer"]:
            if not (version.isascii() and version.isdigit()) or len(version) > 18:
                raise NotFound("versions are numbers", code="version_unknown")
            length = fields.get(_HEADER_LENGTH)
            packing = fields.get(b"content-encoding", b"identity").decode("latin-1")
            compact = fields.get(_COMPACT)
            return Asked(
                model,
                int(version),
                None if length is None else length.decode("latin-1"),
                packing if is_packed(packing) else None,
                fields.get(b"accept-encoding", b"").decode("latin-1"),
                None if compact is None else unquote(compact.decode("latin-1")),
            )
    return None


@functools.lru_cache(maxsize=512)
def asked_in(head: bytes) -> Asked:
    """The call of a frame's head, read once for all that are the same. Raises NotFound.

    A head has up to 64 kB, and a caller may send another with every call.
    """
    line, *lines = head.split(b"\r\n")
    _method, _, rest = line.partition(b" ")
    fields = {name: value for name, _, value in (text.partition(b": ") for text in lines)}
    asked = asked_of(rest.rpartition(b" ")[0], fields)
    if asked is None:
        raise NotFound("a frame calls the path of an inference alone")
    return asked


class Calls:
    """Answers calls; whatever fails becomes an answer."""

    def __init__(self, inference: Inference, max_body_bytes: int) -> None:
        self._inference = inference
        self._max_body_bytes = max_body_bytes

    async def answer(self, asked: Asked, body: bytes | bytearray, deadline: float) -> Reply:
        """The answer within `deadline` (on `time.monotonic`). Cancelled, it leaves nothing behind."""
        try:
            if asked.packing is not None:
                body = await asyncio.to_thread(unpack, body, asked.packing, limit_bytes=self._max_body_bytes)
            answer = await self._inference.answer(
                asked.model, asked.version, body, asked.header_length, deadline, compact=asked.compact
            )
            return _reply(answer, asked.accepted)
        except MoorageError as error:
            return refusal(error)
        except Exception as error:  # noqa: BLE001 - it is logged and answered
            return failure(error)


def _reply(answer: Answer, accepted: str) -> Reply:
    output = b""
    if answer.encoded is None:
        status, fields, body, *_ = refusal(answer.refusal or MoorageError("the answer cannot be encoded"))
    else:
        encoded = packed(answer.encoded, accepted) if accepted else answer.encoded
        status, fields, body = 200, _lines(encoded.headers), encoded.body
        output = b"" if answer.output is None else encode_output(answer.output)
    return Reply(status, fields, body, answer.rows, answer.service_us, answer.queue_us, answer.state, output)


def _lines(fields: dict[str, str]) -> bytes:
    if fields == _PLAIN:
        return _JSON
    return "".join([f"{name}: {value}\r\n" for name, value in fields.items()]).encode()


def refusal(error: MoorageError) -> Reply:
    """The protocol's error body, and the stable code in a header."""
    if error.detail or (error.status >= 500 and error.status not in {503, 504}):
        log.warning("refused", code=error.code, status=error.status, error=error.message, detail=error.detail)
    fields = _lines({host_calls.ERROR_CODE: error.code, **error.headers})
    return Reply(error.status, _JSON + fields, orjson.dumps({"error": error.message}))


def failure(error: Exception) -> Reply:
    """The answer to what was not foreseen."""
    log.error("unforeseen error", exc_info=error)
    return refusal(MoorageError("something failed in the replica host; try again"))


def deadline_in(left_ms: int) -> float:
    return time.monotonic() + left_ms / 1000
