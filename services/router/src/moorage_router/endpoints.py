"""The Open Inference Protocol's door: raw ASGI, from path and headers to the gateway and back.

Nothing is decided here. Errors have exactly the body `{"error": <text>}` and the header `Moorage-Error`.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson
import structlog

from moorage_common.contracts import host_calls
from moorage_common.contracts.request_id import RequestId, format_request_id, new_ulid
from moorage_common.errors import BadRequest, Internal, MoorageError, NotFound, Unavailable
from moorage_router.bodies import IncomingBody
from moorage_router.catalog import Catalog
from moorage_router.errors import ClientGone
from moorage_router.gateway import Answer, Gateway, InferCall
from moorage_router.metrics import RouterMetrics
from moorage_router.upstream import UpstreamError

log = structlog.get_logger()

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

PASSED_ON = frozenset(
    {
        b"content-type", b"content-encoding", b"accept", b"accept-encoding", b"inference-header-content-length",
        b"tracestate", b"baggage", b"x-request-id", b"user-agent",
    }
)  # fmt: skip
"""Client headers that reach a host. Everything else stays here: hop-by-hop ones, keys, `moorage-*`."""

NOT_JSON = frozenset({b"content-encoding", b"inference-header-content-length"})
"""With one of these the body is not plain JSON text."""
FRAMING = frozenset({b"content-length", b"transfer-encoding"})

_JSON = (b"content-type", b"application/json")
_ERROR_CODE = host_calls.ERROR_CODE.encode()
_REQUEST_ID = host_calls.REQUEST_ID.encode()


class Endpoints:
    """The ASGI application under /v2 and /t/<tenant>/v2."""

    def __init__(
        self, gateway: Gateway, catalog: Catalog, metrics: RouterMetrics, ready: Callable[[], str | None], secret: bytes
    ) -> None:
        """`ready` says why the router cannot serve, or None."""
        self._gateway = gateway
        self._catalog = catalog
        self._metrics = metrics
        self._ready = ready
        self._secret = secret

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one HTTP request."""
        reply = Responder(send, "")
        try:
            path: str = scope["path"]
            tenant, parts = _split(path)
            if len(parts) in (4, 6) and parts[-1] == "infer" and parts[1] == "models":
                if scope["method"] != "POST":
                    raise _method_not_allowed("POST")
                call = _infer_call(scope, receive, tenant, parts)
                try:
                    await self._gateway.infer(call, reply.answer)
                finally:
                    reply.request_id = call.request_id
                return
            await reply.json(200, self._read(scope, tenant, parts), self._anonymous_id())
        except MoorageError as error:
            await self._refuse(reply, error)
        except (ClientGone, UpstreamError) as error:
            log.info("answer broken off", error=str(error))
            if reply.started:
                raise ConnectionAbortedError from error
        except Exception as error:
            log.error("unforeseen error", exc_info=error)
            await self._refuse(reply, Internal("something failed on our side; try again, and report it if it goes on"))

    def _read(self, scope: Message, tenant: str | None, parts: list[str]) -> bytes:
        """All that is not inference, answered from memory."""
        if scope["method"] not in ("GET", "HEAD"):
            raise _method_not_allowed("GET")
        if len(parts) > 2 and parts[1] == "models":
            return self._read_model(_authorization(scope), tenant, parts[2], parts[3:])
        match parts[1:]:
            case []:
                return self._catalog.server
            case ["health", "live"]:
                return b'{"live":true}'
            case ["health", "ready"]:
                return self._health_ready()
            case ["models"]:
                return self._catalog.models(_authorization(scope), tenant)
        raise _no_such_path()

    def _read_model(self, authorization: bytes | None, tenant: str | None, model: str, parts: list[str]) -> bytes:
        version = None
        if len(parts) > 1 and parts[0] == "versions":
            version, parts = parts[1], parts[2:]
        if not parts:
            return self._catalog.metadata(authorization, tenant, model, version)
        if parts == ["ready"]:
            return self._catalog.ready(authorization, tenant, model, version)
        raise _no_such_path()

    def _health_ready(self) -> bytes:
        reason = self._ready()
        if reason is not None:
            raise Unavailable(reason, code="not_ready", retry_after_s=1)
        return b'{"ready":true,"live":true}'

    async def _refuse(self, reply: "Responder", error: MoorageError) -> None:
        if error.detail or error.status == 500:
            log.warning("refused", code=error.code, status=error.status, detail=error.detail)
        if not reply.request_id:
            self._metrics.refused.labels(error.code).inc()
        if reply.started:
            raise ConnectionAbortedError
        headers = [(name.encode(), value.encode()) for name, value in error.headers.items()]
        headers.append((_ERROR_CODE, error.code.encode()))
        await reply.json(
            error.status, orjson.dumps({"error": error.message}), reply.request_id or self._anonymous_id(), headers
        )

    def _anonymous_id(self) -> str:
        """An id for answers that no version gave."""
        return format_request_id(self._secret, "", RequestId(new_ulid(), "-", 0, "-", 0))


class Responder:
    """Writes one answer."""

    __slots__ = ("_send", "request_id", "started")

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self.request_id = request_id
        self.started = False

    async def answer(self, answer: Answer) -> int:
        """Send a host's answer; the bytes of its body."""
        self.started = True
        send = self._send
        await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        if answer.parts is None:
            await send({"type": "http.response.body", "body": answer.body})
            return len(answer.body)
        size = 0
        async for part in answer.parts:
            size += len(part)
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        return size

    async def json(
        self, status: int, body: bytes, request_id: str, more: list[tuple[bytes, bytes]] | None = None
    ) -> None:
        headers = [_JSON, (b"content-length", b"%d" % len(body)), (_REQUEST_ID, request_id.encode()), *(more or ())]
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


def _split(path: str) -> tuple[str | None, list[str]]:
    """Tenant of the base path, and the path's parts from `v2` on. Raises NotFound."""
    parts = path.strip("/").split("/")
    tenant = None
    if parts[0] == "t" and len(parts) > 2:
        tenant, parts = parts[1], parts[2:]
    if parts[0] != "v2":
        raise _no_such_path()
    return tenant, parts


def _infer_call(scope: Message, receive: Receive, tenant: str | None, parts: list[str]) -> InferCall:
    """The call as the gateway takes it. Raises NotFound or BadRequest."""
    if len(parts) == 6 and parts[3] != "versions":
        raise _no_such_path()
    authorization: bytes | None = None
    traceparent: str | None = None
    framing: list[tuple[bytes, bytes]] = []
    json_only = True
    passed_on: list[bytes] = []
    for header in scope["headers"]:
        name, value = header
        if name in PASSED_ON:
            passed_on += (name, b": ", value, b"\r\n")
            if name in NOT_JSON:
                json_only = False
        elif name == b"authorization":
            authorization = value
        elif name in FRAMING:
            framing.append(header)
        elif name == b"traceparent":
            traceparent = value.decode("latin-1")

    async def next_part() -> tuple[bytes, bool]:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGone
        return message["body"], message["more_body"]

    return InferCall(
        authorization=authorization, tenant=tenant, model=parts[2], version=parts[4] if len(parts) == 6 else None,
        passed_on=b"".join(passed_on), json_only=json_only, traceparent=traceparent,
        body=IncomingBody(next_part, _length(framing)),
    )  # fmt: skip


def _length(framing: list[tuple[bytes, bytes]]) -> int | None:
    """Bytes announced; None for a chunked body. Raises BadRequest when the headers contradict each other."""
    if not framing:
        return 0
    name, value = framing[0]
    if len(framing) > 1 or (name == b"content-length" and not value.isdigit()):
        message = "send one Content-Length or one Transfer-Encoding header"
        raise BadRequest(message, code="bad_framing")
    return int(value) if name == b"content-length" else None


def _authorization(scope: Message) -> bytes | None:
    return next((value for name, value in scope["headers"] if name == b"authorization"), None)


def _no_such_path() -> NotFound:
    return NotFound("no such path; inference is POST /v2/models/<model>/infer", code="path_not_found")


class _MethodNotAllowed(MoorageError):
    status = 405
    default_code = "method_not_allowed"


def _method_not_allowed(allowed: str) -> MoorageError:
    return _MethodNotAllowed(f"this path takes {allowed}")
