"""The host's HTTP door, in a thread with an event loop of its own."""

import asyncio
import functools
import hmac
import socket
import threading
import time
import zlib

import orjson
import structlog
import uvloop

from moorage_common.contracts import host_calls
from moorage_common.errors import BadRequest, MoorageError, NotFound, TooLarge, Unauthenticated
from moorage_common.http1 import ClientGone, Exchange, Server
from moorage_runtime.inference import Answer, Inference
from moorage_runtime.v2 import HEADER_LENGTH, Encoded

log = structlog.get_logger()

COMPRESS_FROM_BYTES = 16 * 1024
DEFAULT_DEADLINE_MS = 30_000
STOP_S = 15.0
_WBITS = {"gzip": 31, "deflate": 15}
_JSON = b"content-type: application/json\r\n"
_TOKEN = host_calls.TOKEN.encode()
_TENANT = host_calls.TENANT.encode()
_DEADLINE_MS = host_calls.DEADLINE_MS.encode()
_HEADER_LENGTH = HEADER_LENGTH.encode()
_OUT = f"{host_calls.OUT_SERVICE_US}: %d\r\n{host_calls.OUT_ROWS}: %d\r\n{host_calls.OUT_STATE}: %b\r\n".encode()

Reply = tuple[int, bytes, bytes]
"""Status, header lines, body."""


class HostApp:
    """`POST /v2/models/{m}/versions/{v}/infer` as contracts/host_calls.py has it, and `GET /healthz`."""

    def __init__(self, inference: Inference, *, tenant: str, token: str, max_body_bytes: int) -> None:
        self._inference = inference
        self._tenant = tenant.encode()
        self._token = token.encode()
        self._max_body_bytes = max_body_bytes

    async def __call__(self, exchange: Exchange) -> None:
        """Serve one request; whatever fails becomes an answer. Cancelled when the caller goes away."""
        try:
            status, fields, body = await self._route(exchange)
        except MoorageError as error:
            if error.detail or (error.status >= 500 and error.status not in {503, 504}):
                log.warning("refused", code=error.code, status=error.status, error=error.message, detail=error.detail)
            status, fields, body = refusal(error)
        except ClientGone:
            raise
        except Exception:
            log.exception("unforeseen error")
            status, fields, body = refusal(MoorageError("something failed in the replica host; try again"))
        exchange.respond(status, fields, body)

    async def _route(self, exchange: Exchange) -> Reply:
        head = exchange.head
        target = _inference_target(head.path) if head.method == b"POST" else None
        if target is not None:
            return await self._infer(*target, dict(head.fields), exchange)
        if head.path == b"/healthz" and head.method == b"GET":
            return 200, _JSON, b'{"live":true}'
        raise NotFound(f"a replica host has no {head.method.decode()} {head.path[:200].decode('latin-1')}")

    async def _infer(self, model: str, version: int, headers: dict[bytes, bytes], exchange: Exchange) -> Reply:
        if not hmac.compare_digest(headers.get(_TOKEN, b""), self._token):
            raise Unauthenticated(
                "the token is not of this host's generation; read the endpoint again", code=host_calls.HOST_STALE
            )
        if headers.get(_TENANT, b"") != self._tenant:
            raise NotFound("this host serves another tenant", code="tenant_mismatch")
        deadline = time.monotonic() + _deadline_ms(headers) / 1000
        body = await self._body(exchange, headers)
        length = headers.get(_HEADER_LENGTH)
        answer = await self._inference.answer(
            model, version, body, None if length is None else length.decode("latin-1"), deadline
        )
        return _answered(answer, headers.get(b"accept-encoding", b""))

    async def _body(self, exchange: Exchange, headers: dict[bytes, bytes]) -> bytes:
        body = exchange.body
        if body is None:
            body = await self._long_body(exchange)
        encoding = headers.get(b"content-encoding")
        return body if encoding is None else await self._unpacked(body, encoding.decode("latin-1").lower())

    async def _long_body(self, exchange: Exchange) -> bytes:
        said = exchange.head.content_length
        if said is not None and said > self._max_body_bytes:
            raise self._too_large()
        body = bytearray()
        while (part := await exchange.next_part()) is not None:
            body += part
            if len(body) > self._max_body_bytes:
                raise self._too_large()
        return bytes(body)

    async def _unpacked(self, body: bytes, encoding: str) -> bytes:
        if encoding == "identity":
            return body
        if encoding not in _WBITS:
            raise BadRequest(f"Content-Encoding '{encoding[:40]}' is not known; use gzip or deflate")
        return await asyncio.to_thread(self._unpack, body, encoding)

    def _unpack(self, body: bytes, encoding: str) -> bytes:
        unpacker = zlib.decompressobj(_WBITS[encoding])
        try:
            found = unpacker.decompress(body, self._max_body_bytes + 1)
        except zlib.error:
            raise BadRequest(f"the body is not {encoding}") from None
        if len(found) > self._max_body_bytes:
            raise self._too_large()
        if not unpacker.eof:
            raise BadRequest(f"the {encoding} body ends too soon")
        return found

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the request is larger than {self._max_body_bytes} bytes; send fewer rows at a time")


@functools.lru_cache(maxsize=1024)
def _inference_target(path: bytes) -> tuple[str, int] | None:
    """Model and version of an inference path. Raises NotFound for a version that is no number."""
    match path.decode("latin-1").split("/"):
        case ["", "v2", "models", model, "versions", version, "infer"]:
            if not (version.isascii() and version.isdigit()) or len(version) > 18:
                raise NotFound("versions are numbers", code="version_unknown")
            return model, int(version)
    return None


def _deadline_ms(headers: dict[bytes, bytes]) -> int:
    text = headers.get(_DEADLINE_MS)
    if text is None:
        return DEFAULT_DEADLINE_MS
    try:
        return int(text[:12])
    except ValueError:
        raise BadRequest(f"{host_calls.DEADLINE_MS} must be milliseconds, an integer") from None


def _answered(answer: Answer, accepted: bytes) -> Reply:
    out = _OUT % (answer.service_us, answer.rows, answer.state.encode())
    if answer.encoded is None:
        status, fields, body = refusal(answer.refusal or MoorageError("the answer cannot be encoded"))
        return status, fields + out, body
    packed = _packed(answer.encoded, accepted.decode("latin-1")) if accepted else answer.encoded
    fields = "".join([f"{name}: {value}\r\n" for name, value in packed.headers.items()]).encode()
    return 200, fields + out, packed.body


def _packed(encoded: Encoded, accepted: str) -> Encoded:
    if len(encoded.body) < COMPRESS_FROM_BYTES:
        return encoded
    encoding = _chosen_encoding(accepted)
    if encoding is None:
        return encoded
    packer = zlib.compressobj(1, zlib.DEFLATED, _WBITS[encoding])
    return Encoded(packer.compress(encoded.body) + packer.flush(), {**encoded.headers, "content-encoding": encoding})


def _chosen_encoding(accepted: str) -> str | None:
    """Gzip or deflate where `Accept-Encoding` names it with a weight over 0 (RFC 9110, section 12.5.3)."""
    for part in accepted.lower().split(","):
        name, *more = (word.strip() for word in part.split(";"))
        if name in _WBITS and not any(word.startswith("q=") and not word[2:].strip("0.") for word in more):
            return name
    return None


def refusal(error: MoorageError) -> Reply:
    """The protocol's error body, and the stable code in a header."""
    fields = {host_calls.ERROR_CODE: error.code, **error.headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items()).encode()
    return error.status, _JSON + lines, orjson.dumps({"error": error.message})


class HostServer:
    """A listening socket and the thread that serves it."""

    def __init__(self, app: HostApp, bind: str) -> None:
        family = socket.AF_INET6 if ":" in bind else socket.AF_INET
        self._app = app
        self._socket = socket.create_server((bind, 0), family=family, backlog=2048)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._up = threading.Event()
        self._thread = threading.Thread(target=lambda: uvloop.run(self._serve()), name="http", daemon=True)

    @property
    def address(self) -> str:
        """`host:port`."""
        host, port = self._socket.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def start(self) -> None:
        """Begin to answer; connections made before wait in the socket's backlog."""
        self._thread.start()
        self._up.wait()

    def stop(self) -> None:
        """Answer what is in flight and end."""
        if self._loop is not None and self._stopping is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(timeout=STOP_S)
        self._socket.close()

    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        server = Server(self._app)
        await server.start(self._socket)
        self._up.set()
        await self._stopping.wait()
        await server.drain()
