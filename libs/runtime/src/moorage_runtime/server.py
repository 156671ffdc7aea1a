"""The host's door, in a thread with an event loop of its own: HTTP, and links that carry small calls as frames."""

import asyncio
import hmac
import secrets
import socket
import threading
import time
from urllib.parse import quote_from_bytes

import uvloop

from moorage_common.contracts import host_calls, host_frames
from moorage_common.errors import BadRequest, MoorageError, NotFound, TooLarge, Unauthenticated, Unavailable
from moorage_common.http1 import ClientGone, Exchange, Server
from moorage_runtime.calls import Asked, Calls, Reply, asked_in, asked_of, deadline_in, failure, refusal
from moorage_runtime.frames import Link

DEFAULT_DEADLINE_MS = 30_000
STOP_S = 15.0
LINKS_LINGER_S = 1.0
"""For so long a stopping host takes calls of routers that have not heard of it yet."""
KEPT_ANSWERS = 1024
"""Answers too long for a frame that wait to be read: as many as a host answers at once."""
_JSON = b"content-type: application/json\r\n"
_TOKEN = host_calls.TOKEN.encode()
_TENANT = host_calls.TENANT.encode()
_DEADLINE_MS = host_calls.DEADLINE_MS.encode()
_OUT = f"{host_calls.OUT_SERVICE_US}: %d\r\n{host_calls.OUT_ROWS}: %d\r\n{host_calls.OUT_STATE}: %b\r\n".encode()
_OUT_COMPACT = f"{host_calls.OUT_COMPACT}: %b\r\n".encode()
_ANSWERS = "/answers/"


class HostApp:
    """What contracts/host_calls.py and contracts/host_frames.py say, and `GET /healthz`."""

    def __init__(self, calls: Calls, *, tenant: str, token: str, max_body_bytes: int) -> None:
        self._calls = calls
        self._tenant = tenant.encode()
        self._token = token.encode()
        self._max_body_bytes = max_body_bytes
        self._kept: dict[str, Reply] = {}
        self.links: set[Link] = set()

    async def __call__(self, exchange: Exchange) -> None:
        """Serve one HTTP request; whatever fails becomes an answer. Cancelled when the caller goes away."""
        head = exchange.head
        headers = dict(head.fields)
        try:
            if head.path == b"/healthz" and head.method == b"GET":
                exchange.respond(200, _JSON, b'{"live":true}')
                return
            asked = asked_of(head.path, headers) if head.method == b"POST" else None
            self._admit(headers)
            if asked is not None:
                reply = await self._infer(asked, headers, exchange)
            elif head.path == host_frames.PATH.encode() and b"upgrade" in headers:
                exchange.switch(host_frames.PROTOCOL, Link(self.serve_frame, self.links))
                return
            else:
                reply = self._kept_answer(head.method, head.path)
        except MoorageError as error:
            reply = refusal(error)
        except ClientGone:
            raise
        except Exception as error:  # noqa: BLE001 - it is logged and answered
            reply = failure(error)
        out = _OUT % (reply.service_us, reply.rows, reply.state.encode())
        if reply.output:
            out += _OUT_COMPACT % quote_from_bytes(reply.output, safe="").encode()
        exchange.respond(reply.status, reply.fields + out, reply.body)

    def _admit(self, headers: dict[bytes, bytes]) -> None:
        """Raises Unauthenticated or NotFound unless a router calls that knows this process."""
        if not hmac.compare_digest(headers.get(_TOKEN, b""), self._token):
            raise Unauthenticated(
                "the token is not of this host's generation; read the endpoint again", code=host_calls.HOST_STALE
            )
        if headers.get(_TENANT, b"") != self._tenant:
            raise NotFound("this host serves another tenant", code="tenant_mismatch")

    async def _infer(self, asked: Asked, headers: dict[bytes, bytes], exchange: Exchange) -> Reply:
        deadline = deadline_in(_deadline_ms(headers))
        body = exchange.body if exchange.body is not None else await self._long_body(exchange)
        return await self._calls.answer(asked, body, deadline)

    async def _long_body(self, exchange: Exchange) -> bytes | bytearray:
        said = exchange.head.content_length
        if said is not None:
            if said > self._max_body_bytes:
                raise self._too_large()
            return await exchange.read_whole()
        parts, size = [], 0
        while (part := await exchange.next_part()) is not None:
            parts.append(part)
            size += len(part)
            if size > self._max_body_bytes:
                raise self._too_large()
        return b"".join(parts)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the request is larger than {self._max_body_bytes} bytes; send fewer rows at a time")

    async def serve_frame(self, call: host_frames.Call) -> host_frames.Answer:
        """Answer one call of a link."""
        try:
            asked = asked_in(call.head)
        except MoorageError as error:
            reply = refusal(error)
        else:
            reply = await self._calls.answer(asked, call.body, deadline_in(call.left_ms))
        fields, body = reply.fields, reply.body
        if len(body) > host_frames.FRAMED_BYTES:
            fields, body = self._keep(reply, call.left_ms), b""
        state = host_frames.STATES.index(reply.state)
        return host_frames.Answer(
            call.id, reply.status, reply.service_us, reply.queue_us, reply.rows, state, fields, body, reply.output
        )

    async def refuse_frame(self, call: host_frames.Call) -> host_frames.Answer:
        """Send one call of a link elsewhere."""
        reply = refusal(Unavailable("this replica host stops; try again", code="draining", retry_after_s=1))
        return host_frames.Answer(call.id, reply.status, 0, 0, 0, 0, reply.fields, reply.body)

    def _keep(self, reply: Reply, left_ms: int) -> bytes:
        """Keep a long answer until it is read, for as long as its caller waits; the header line that tells where."""
        if len(self._kept) >= KEPT_ANSWERS:
            del self._kept[next(iter(self._kept))]
        ticket = secrets.token_urlsafe(16)
        self._kept[ticket] = reply
        asyncio.get_running_loop().call_later(left_ms / 1000, self._kept.pop, ticket, None)
        return f"{host_frames.ANSWER_AT}: {_ANSWERS}{ticket}\r\n".encode()

    def _kept_answer(self, method: bytes, path: bytes) -> Reply:
        text = path.decode("latin-1")
        reply = self._kept.pop(text.removeprefix(_ANSWERS), None) if method == b"GET" else None
        if reply is None:
            raise NotFound(f"a replica host has no {method.decode('latin-1')} {text[:200]}")
        return reply


def _deadline_ms(headers: dict[bytes, bytes]) -> int:
    text = headers.get(_DEADLINE_MS)
    if text is None:
        return DEFAULT_DEADLINE_MS
    try:
        return int(text[:12])
    except ValueError:
        raise BadRequest(f"{host_calls.DEADLINE_MS} must be milliseconds, an integer") from None


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
        for link in list(self._app.links):
            link.end()
        await server.drain()
        refused_at = time.monotonic() + LINKS_LINGER_S
        while self._app.links:  # rare, and bounded by whoever joins this thread
            refuse = self._app.refuse_frame if time.monotonic() > refused_at else None
            for link in list(self._app.links):  # a router may have come anew
                link.end(refuse)
            await asyncio.sleep(0.02)
