"""The Open Inference Protocol's door: from a request's head to the gateway and back.

Nothing is decided here. Errors have exactly the body `{"error": <text>}` and the header `Moorage-Error`.
"""

from collections.abc import Awaitable, Callable

import orjson
import structlog

from moorage_common.contracts import host_calls
from moorage_common.contracts.request_id import RequestIds
from moorage_common.errors import Internal, MoorageError, TooLarge, Unavailable
from moorage_common.http1 import ClientGone, Exchange
from moorage_common.networks import Proxies
from moorage_router import openapi, operations
from moorage_router.access import Access, Asked
from moorage_router.auth import caller_of
from moorage_router.bodies import IncomingBody
from moorage_router.calls import Call, call_of
from moorage_router.catalog import INDEX_BODY_BYTES, Catalog, index_request_refused
from moorage_router.feedback.service import FeedbackService
from moorage_router.gateway import Answer, Gateway, InferCall
from moorage_router.metrics import RouterMetrics
from moorage_router.upstream import UpstreamError

log = structlog.get_logger()

_JSON = b"content-type: application/json\r\n"
_ERROR_CODE = host_calls.ERROR_CODE.encode()
_REQUEST_ID = host_calls.REQUEST_ID.encode()


class Endpoints:
    """What is served under /v2 and /t/<tenant>/v2."""

    def __init__(
        self,
        gateway: Gateway,
        catalog: Catalog,
        feedback: FeedbackService,
        metrics: RouterMetrics,
        ready: Callable[[], str | None],
        *,
        secret: bytes,
        proxies: Proxies,
    ) -> None:
        """`ready` says why the router cannot serve, or None; `secret` is that of request ids."""
        self._proxies = proxies
        self._gateway = gateway
        self._access = Access(gateway)
        self._catalog = catalog
        self._feedback = feedback
        self._metrics = metrics
        self._ready = ready
        self._ids = RequestIds(secret, "")
        """For answers that no version gave."""
        self._answers = self._known()

    async def __call__(self, exchange: Exchange) -> None:
        """Serve one request."""
        request_id = ""
        try:
            head = exchange.head
            call: Call | None = head.memo
            if call is None:
                call = head.memo = call_of(head)
                call.credentials.address = caller_of(self._proxies, exchange)
            if call.kind == "infer":
                asked = InferCall(call, IncomingBody(exchange))
                try:
                    await self._gateway.infer(asked, _Reply(exchange))
                finally:
                    request_id = asked.request_id
            else:
                await self._other(exchange, call)
        except MoorageError as error:
            self._refuse(exchange, error, request_id)
        except UpstreamError as error:
            log.info("answer broken off", error=str(error))
            exchange.abandon()
        except ClientGone:
            raise  # the server knows what the caller is to hear
        except Exception as error:
            log.error("unforeseen error", exc_info=error)
            unforeseen = Internal("something failed on our side; try again, and report it if it goes on")
            self._refuse(exchange, unforeseen, request_id)

    async def _other(self, exchange: Exchange, call: Call) -> None:
        """All that is not inference: found in the table of operations, let in by its rule, then answered."""
        operation, named = operations.find(exchange.head.method.decode("latin-1"), call.parts)
        asked = self._access.admit(operation.rule, call, named, IncomingBody(exchange))
        body = await self._answers[operation.name](asked)
        _json(exchange, 202 if operation.name == "feedback" else 200, body, self._ids.new())

    def _known(self) -> dict[str, Callable[[Asked], Awaitable[bytes]]]:
        """What answers each operation. Raises RuntimeError when one of the table is missing."""
        catalog = self._catalog
        document = orjson.dumps(openapi.document())
        answers: dict[str, Callable[[Asked], Awaitable[bytes]]] = {
            "document": _at_once(lambda _asked: document),
            "server": _at_once(lambda _asked: catalog.server),
            "live": _at_once(lambda _asked: b'{"live":true}'),
            "server_ready": _at_once(lambda _asked: self._health_ready()),
            "models": _at_once(lambda asked: catalog.models(asked.principal)),
            "all_stats": lambda asked: catalog.all_stats(asked.principal),
            "index": self._index,
            "metadata": _at_once(lambda asked: catalog.metadata(asked.route, asked.version)),
            "ready": _at_once(lambda asked: catalog.ready(asked.route, asked.version)),
            "stats": lambda asked: catalog.stats(asked.route, asked.version),
            "feedback": lambda asked: self._feedback.take(asked.principal, asked.model, asked.body),
        }
        if {one.name for one in operations.OPERATIONS} != {"infer", *answers}:
            raise RuntimeError("the table of operations and what answers them differ")
        return answers

    async def _index(self, asked: Asked) -> bytes:
        try:
            body = await asked.body.read_whole(INDEX_BODY_BYTES)
        except TooLarge as error:
            raise index_request_refused() from error
        return self._catalog.index(asked.principal, body)

    def _health_ready(self) -> bytes:
        reason = self._ready()
        if reason is not None:
            raise Unavailable(reason, code="not_ready", retry_after_s=1)
        return b'{"ready":true,"live":true}'

    def _refuse(self, exchange: Exchange, error: MoorageError, request_id: str) -> None:
        if error.detail or error.status == 500:
            log.warning("refused", code=error.code, status=error.status, detail=error.detail)
        if not request_id:
            self._metrics.refused.labels(error.code).inc()
        if exchange.started:
            exchange.abandon()
            return
        more = b"".join(b"%b: %b\r\n" % (name.encode(), value.encode()) for name, value in error.headers.items())
        more += b"%b: %b\r\n" % (_ERROR_CODE, error.code.encode())
        _json(exchange, error.status, orjson.dumps({"error": error.message}), request_id or self._ids.new(), more)


def _at_once(answer: Callable[[Asked], bytes]) -> Callable[[Asked], Awaitable[bytes]]:
    """An answer from memory."""

    async def answered(asked: Asked) -> bytes:
        return answer(asked)

    return answered


def _json(exchange: Exchange, status: int, body: bytes, request_id: str, more: bytes = b"") -> None:
    fields = b"%b%b: %b\r\n%b" % (_JSON, _REQUEST_ID, request_id.encode(), more)
    exchange.respond(status, fields, body)


class _Reply:
    """Sends a host's answer on."""

    __slots__ = ("_exchange",)

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    async def send(self, answer: Answer) -> int:
        """The bytes of its body. Raises UpstreamError when a long answer breaks off."""
        if answer.parts is None:
            self._exchange.respond(answer.status, answer.fields, answer.body)
            return len(answer.body)
        self._exchange.begin(answer.status, answer.fields, answer.length)
        size = 0
        async for part in answer.parts:
            size += len(part)
            await self._exchange.send(part)
        self._exchange.end()
        return size
