"""HTTP to one service of the platform, kept alive, its refusals as `MoorageApiError`: the blocking and the async half.

Both send what `Call` says and ask `retry.decide` after a failure; they differ in how they send and wait. Connections
are kept for 30 s, well below the 75 s of the platform's servers, and httpx looks whether an idle one was closed before
it takes it. What it cannot see is a close that crosses the request: that is `Lost` with `kept`.
"""

import asyncio
import contextlib
import functools
import random
import ssl
import time
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from moorage_common.trace import child_of
from moorage_sdk.retry import Failure, GiveUp, Lost, RetryPolicy, Unsent, decide
from moorage_sdk.wire import Call, Reply, Service, failure_of

TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 5.0
KEEP_ALIVE_S = 30.0
CONNECTIONS = 32


def _limits(connections: int) -> httpx.Limits:
    return httpx.Limits(
        max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=KEEP_ALIVE_S
    )


@functools.cache
def tls_context() -> ssl.SSLContext:
    """One for the process, by SSL_CERT_FILE or httpx's own certificates: reading those takes a tenth of a second."""
    return httpx.create_ssl_context()


def _verify(service: Service) -> ssl.SSLContext | bool:
    """False only where no TLS can be spoken: plain HTTP on this machine, where no proxy is asked either."""
    return not service.is_plain_loopback and tls_context()


def _headers(call: Call) -> dict[str, str]:
    return {"traceparent": child_of(None), **call.headers}


class _Progress:
    """How far one request came, by httpcore's trace events: they alone tell whether anything was sent."""

    __slots__ = ("is_answered", "is_new", "is_sent")

    def __init__(self) -> None:
        self.is_new = self.is_sent = self.is_answered = False

    def note(self, event: str, _info: object) -> None:
        if event.endswith(".connect_tcp.started"):
            self.is_new = True
        elif event.endswith(".send_request_headers.started"):
            self.is_sent = True
        elif event.endswith(".receive_response_headers.complete"):
            self.is_answered = True

    async def note_async(self, event: str, info: object) -> None:
        self.note(event, info)

    def failure(self, error: Exception) -> Failure:
        """What became of the request that ended with `error`."""
        timed_out = isinstance(error, httpx.TimeoutException | TimeoutError)
        if not self.is_sent:
            return Unsent(error)
        return Lost(error, in_time=not timed_out, kept=not self.is_new and not self.is_answered)


class _Attempts:
    """The attempts of one call: how much time is left, and whether there is another."""

    def __init__(self, service: Service, policy: RetryPolicy, call: Call, timeout_s: float) -> None:
        service.check_configured()
        retries = policy.retries if call.retries is None else call.retries
        self._policy = RetryPolicy(retries, policy.first_wait_s, policy.longest_wait_s)
        self._service = service
        self._call = call
        self._timeout_s = timeout_s if call.timeout_s is None else call.timeout_s
        self._sent = 0
        self.deadline = time.monotonic() + self._timeout_s

    @property
    def left_s(self) -> float:
        return max(0.001, self.deadline - time.monotonic())

    def wait_s(self, outcome: Reply | Failure) -> float | None:
        """None: `outcome` is the answer. Else seconds until the call is sent again. Raises MoorageApiError."""
        failure = failure_of(outcome)
        if failure is None:
            return None
        self._sent += 1
        left_s = self.deadline - time.monotonic()
        draw = random.random()  # noqa: S311 - jitter
        verdict = decide(self._policy, failure, self._call.repeat, sent=self._sent, left_s=left_s, draw=draw)
        if isinstance(verdict, GiveUp):
            cause = failure.cause if isinstance(failure, Lost | Unsent) else None
            raise self._service.error_of(self._call.path, outcome, self._timeout_s) from cause
        return verdict.seconds


class Transport:
    """Blocking calls over at most `connections` kept connections; threads may share it."""

    def __init__(
        self, service: Service, *, policy: RetryPolicy, timeout_s: float = TIMEOUT_S, connections: int = CONNECTIONS
    ) -> None:
        self.base_url = service.base_url
        self.service = service
        self._policy = policy
        self._timeout_s = timeout_s
        self._http = httpx.Client(
            base_url=service.base_url,
            limits=_limits(connections),
            headers=service.all_headers,
            verify=_verify(service),
            trust_env=not service.is_loopback,
        )

    def send(self, call: Call) -> Reply:
        """The answer to `call`, a success.

        Raises:
            MoorageApiError: another status than 2xx, or no answer (status 0, code `unreachable` or `timed_out`).
            NotConfigured: no address or no key.
        """
        attempts = _Attempts(self.service, self._policy, call, self._timeout_s)
        while True:
            outcome = self._once(call, attempts)
            wait_s = attempts.wait_s(outcome)
            if wait_s is None:
                assert isinstance(outcome, Reply)  # noqa: S101 - what a failure of None says
                return outcome
            time.sleep(wait_s)

    def _once(self, call: Call, attempts: _Attempts) -> Reply | Failure:
        progress, parts, left_s = _Progress(), [], attempts.left_s
        request = self._http.build_request(
            call.method, call.path, headers=_headers(call), content=call.body or None,
            timeout=httpx.Timeout(left_s, connect=min(left_s, CONNECT_TIMEOUT_S)),
            extensions={"trace": progress.note},
        )  # fmt: skip
        try:
            with contextlib.closing(self._http.send(request, stream=True)) as response:
                for part in response.iter_bytes():
                    parts.append(part)
                    if time.monotonic() > attempts.deadline:
                        raise httpx.ReadTimeout("the answer was not whole in time", request=request)
        except httpx.HTTPError as error:
            return progress.failure(error)
        return Reply(response.status_code, response.headers, b"".join(parts))

    def request(self, method: str, path: str, **options: Any) -> Reply:
        """`send` the call that `Call.of` makes."""
        return self.send(Call.of(method, path, **options))

    def json(self, method: str, path: str, **options: Any) -> Any:
        """`request`, its answer's JSON."""
        return self.request(method, path, **options).json()

    @contextlib.contextmanager
    def lines(self, path: str, *, params: Mapping[str, str], headers: Mapping[str, str]) -> Iterator[Iterator[str]]:
        """The lines of a streamed answer, as they come; silence does not end it, and nothing is sent again."""
        self.service.check_configured()
        timeout = httpx.Timeout(None, connect=CONNECT_TIMEOUT_S)
        try:
            with self._http.stream(
                "GET", path, params=dict(params), headers=dict(headers), timeout=timeout
            ) as response:
                if not response.is_success:
                    reply = Reply(response.status_code, response.headers, response.read())
                    raise self.service.error_of(path, reply, self._timeout_s)
                yield response.iter_lines()
        except httpx.HTTPError as error:
            raise self.service.error_of(path, Lost(error), self._timeout_s) from error

    @contextlib.contextmanager
    def parts(self, path: str) -> Iterator[Iterator[bytes]]:
        """The body of an answer as it comes, however long it is; nothing is sent again."""
        self.service.check_configured()
        timeout = httpx.Timeout(self._timeout_s, connect=CONNECT_TIMEOUT_S)
        try:
            with self._http.stream("GET", path, timeout=timeout) as response:
                if not response.is_success:
                    reply = Reply(response.status_code, response.headers, response.read())
                    raise self.service.error_of(path, reply, self._timeout_s)
                yield response.iter_bytes()
        except httpx.HTTPError as error:
            raise self.service.error_of(path, Lost(error), self._timeout_s) from error

    def close(self) -> None:
        self._http.close()


class AsyncTransport:
    """Calls of one event loop over at most `connections` kept connections; more wait for one, in order.

    Cancelling a call closes its connection, which ends the work on the platform.
    """

    def __init__(
        self, service: Service, *, policy: RetryPolicy, timeout_s: float = TIMEOUT_S, connections: int = CONNECTIONS
    ) -> None:
        self.base_url = service.base_url
        self._service = service
        self._policy = policy
        self._timeout_s = timeout_s
        # httpx looks through all that wait whenever a call ends, so those who wait do it here.
        self._free = asyncio.Semaphore(connections)
        self._http = httpx.AsyncClient(
            base_url=service.base_url,
            limits=_limits(connections),
            headers=service.all_headers,
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
            verify=_verify(service),
            trust_env=not service.is_loopback,
        )

    async def send(self, call: Call) -> Reply:
        """As `Transport.send`."""
        attempts = _Attempts(self._service, self._policy, call, self._timeout_s)
        while True:
            outcome = await self._once(call, attempts)
            wait_s = attempts.wait_s(outcome)
            if wait_s is None:
                assert isinstance(outcome, Reply)  # noqa: S101 - what a failure of None says
                return outcome
            await asyncio.sleep(wait_s)

    async def _once(self, call: Call, attempts: _Attempts) -> Reply | Failure:
        progress = _Progress()
        request = self._http.build_request(
            call.method, call.path, headers=_headers(call), content=call.body or None,
            extensions={"trace": progress.note_async},
        )  # fmt: skip
        try:
            async with asyncio.timeout(attempts.left_s), self._free:
                response = await self._http.send(request)
        except (httpx.HTTPError, TimeoutError) as error:
            return progress.failure(error)
        return Reply(response.status_code, response.headers, response.content)

    async def close(self) -> None:
        await self._http.aclose()
