"""The host's HTTP door: raw ASGI on uvicorn, in a thread with an event loop of its own."""

import hmac
import socket
import threading
import time
import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson
import structlog
import uvicorn

from moorage_common.contracts import host_calls
from moorage_common.errors import BadRequest, MoorageError, NotFound, TooLarge, Unauthenticated
from moorage_runtime.inference import Answer, Inference
from moorage_runtime.v2 import HEADER_LENGTH, Encoded

log = structlog.get_logger()

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

COMPRESS_FROM_BYTES = 16 * 1024
DEFAULT_DEADLINE_MS = 30_000
_WBITS = {"gzip": 31, "deflate": 15}


class HostApp:
    """`POST /v2/models/{m}/versions/{v}/infer` as contracts/host_calls.py has it, and `GET /healthz`."""

    def __init__(self, inference: Inference, *, tenant: str, token: str, max_body_bytes: int) -> None:
        self._inference = inference
        self._tenant = tenant.encode()
        self._token = token.encode()
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request; whatever fails becomes an answer."""
        if scope["type"] != "http":
            return
        try:
            status, headers, body = await self._route(scope, receive)
        except MoorageError as error:
            if error.detail or (error.status >= 500 and error.status not in {503, 504}):
                log.warning("refused", code=error.code, status=error.status, error=error.message, detail=error.detail)
            status, headers, body = refusal(error)
        except Exception:
            log.exception("unforeseen error")
            status, headers, body = refusal(MoorageError("something failed in the replica host; try again"))
        headers.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _route(self, scope: MutableMapping[str, Any], receive: Receive) -> tuple[int, Headers, bytes]:
        path: str = scope["path"]
        if path == "/healthz" and scope["method"] == "GET":
            return 200, [(b"content-type", b"application/json")], b'{"live":true}'
        match path.split("/"):
            case ["", "v2", "models", model, "versions", version, "infer"] if scope["method"] == "POST":
                return await self._infer(model, version, dict(scope["headers"]), receive)
        raise NotFound(f"a replica host has no {scope['method']} {path[:200]}")

    async def _infer(
        self, model: str, version: str, headers: dict[bytes, bytes], receive: Receive
    ) -> tuple[int, Headers, bytes]:
        if not hmac.compare_digest(headers.get(host_calls.TOKEN.encode(), b""), self._token):
            raise Unauthenticated(
                "the token is not of this host's generation; read the endpoint again", code=host_calls.HOST_STALE
            )
        if headers.get(host_calls.TENANT.encode(), b"") != self._tenant:
            raise NotFound("this host serves another tenant", code="tenant_mismatch")
        if not (version.isascii() and version.isdigit()) or len(version) > 18:
            raise NotFound("versions are numbers", code="version_unknown")
        deadline = time.monotonic() + _deadline_ms(headers) / 1000
        body = await self._body(headers, receive)
        length = headers.get(HEADER_LENGTH.encode())
        answer = await self._inference.answer(
            model, int(version), body, None if length is None else length.decode("latin-1"), deadline
        )
        return _answered(answer, headers.get(b"accept-encoding", b"").decode("latin-1"))

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        said = headers.get(b"content-length", b"0")
        if said.isdigit() and int(said) > self._max_body_bytes:
            raise self._too_large()
        chunks, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise BadRequest("the client left before the body was read")
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > self._max_body_bytes:
                raise self._too_large()
            more = message.get("more_body", False)
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        encoding = headers.get(b"content-encoding", b"identity").decode("latin-1").lower()
        return body if encoding == "identity" else self._unpacked(body, encoding)

    def _unpacked(self, body: bytes, encoding: str) -> bytes:
        if encoding not in _WBITS:
            raise BadRequest(f"Content-Encoding '{encoding[:40]}' is not known; use gzip or deflate")
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


def _deadline_ms(headers: dict[bytes, bytes]) -> int:
    text = headers.get(host_calls.DEADLINE_MS.encode())
    if text is None:
        return DEFAULT_DEADLINE_MS
    try:
        return int(text[:12])
    except ValueError:
        raise BadRequest(f"{host_calls.DEADLINE_MS} must be milliseconds, an integer") from None


def _answered(answer: Answer, accepted: str) -> tuple[int, Headers, bytes]:
    out: Headers = [
        (host_calls.OUT_SERVICE_US.encode(), b"%d" % answer.service_us),
        (host_calls.OUT_ROWS.encode(), b"%d" % answer.rows),
        (host_calls.OUT_STATE.encode(), answer.state.encode()),
    ]
    if answer.encoded is None:
        status, headers, body = refusal(answer.refusal or MoorageError("the answer cannot be encoded"))
        return status, headers + out, body
    packed = _packed(answer.encoded, accepted)
    return 200, [(k.encode(), v.encode()) for k, v in packed.headers.items()] + out, packed.body


def _packed(encoded: Encoded, accepted: str) -> Encoded:
    if len(encoded.body) < COMPRESS_FROM_BYTES:
        return encoded
    asked = {part.partition(";")[0].strip().lower() for part in accepted.split(",")}
    encoding = next((name for name in _WBITS if name in asked), None)
    if encoding is None:
        return encoded
    packer = zlib.compressobj(1, zlib.DEFLATED, _WBITS[encoding])
    return Encoded(packer.compress(encoded.body) + packer.flush(), {**encoded.headers, "content-encoding": encoding})


def refusal(error: MoorageError) -> tuple[int, Headers, bytes]:
    """The protocol's error body, and the stable code in a header."""
    headers: Headers = [(b"content-type", b"application/json"), (host_calls.ERROR_CODE.encode(), error.code.encode())]
    headers += [(name.encode(), value.encode()) for name, value in error.headers.items()]
    return error.status, headers, orjson.dumps({"error": error.message})


class HostServer:
    """A listening socket and the thread that serves it."""

    def __init__(self, app: HostApp, bind: str) -> None:
        family = socket.AF_INET6 if ":" in bind else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((bind, 0))
        self._socket.listen(2048)
        config = uvicorn.Config(
            app,
            loop="uvloop",
            http="httptools",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=120,
            timeout_graceful_shutdown=10,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name="http", daemon=True)

    @property
    def address(self) -> str:
        """`host:port`."""
        host, port = self._socket.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def start(self) -> None:
        """Begin to answer; connections made before wait in the socket's backlog."""
        self._thread.start()

    def stop(self) -> None:
        """Answer what is in flight and end."""
        self._server.should_exit = True
        self._thread.join(timeout=15)
        self._socket.close()
