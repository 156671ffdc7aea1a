"""Bytes that are almost HTTP, against a running router: never a fault of ours, never a hang, never another's answer."""

import asyncio
import contextlib
import fcntl
import json
import os
import re
import resource
import termios
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count, pairwise

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from router_harness import Desired, FakeHost, RunningRouter, Seen, until

from moorage_common.http1.connection import Connection

EXAMPLES = int(os.environ.get("MOORAGE_FUZZ_EXAMPLES", "250"))
KEPT = 256 * 1024
MOST_MB = 150
"""What the process may grow by over all examples."""
TOKENS = [
    *(bytes([byte]) for byte in b"\r\n\0: \t,-0"), b"\r\n", b"\xff\xfe", b"%0d%0aX:%20y", b"/../", b"//", b"?a=b",
    b"HTTP/1.0", b"9" * 20, b"X: " + b"y" * 3000 + b"\r\n", b" folded\r\n", b"0\r\n\r\n", b"5\r\nabcde\r\n",
    b"Content-Length: 8\r\n", b"Content-Length: 3\r\n", b"Content-Length: 80\r\n", b"Content-Encoding: gzip\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip\r\n", b"Connection: close\r\n", b"Host: other\r\n",
    b"Expect: 100-continue\r\n", b"Connection: upgrade\r\nUpgrade: h2c\r\n", b"traceparent: 00-x\r\n",
    b"Inference-Header-Content-Length: 4\r\n", b"GET /v2 HTTP/1.1\r\nHost: h\r\n\r\n",
    b"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\n\r\n",
]  # fmt: skip
KINDS = ["same", "same", "same", "chunked", "read", "offers", "waits", "long", "unknown"]


HEAD = re.compile(rb"HTTP/1\.1 (100 Continue|\d{3} [ -~]*(\r\n[a-z-]+: [^\r\n\0]*)+)")


@dataclass
class Plan:
    """What one connection sends. `good` requests come first and are to be answered whatever follows."""

    good: int
    kinds: list[str]
    changes: list[tuple[str, float, bytes, int]]
    cuts: list[float]
    numbers: list[int] = field(default_factory=list)


HOW = ["insert", "delete", "replace", "repeat"]
change = st.tuples(st.sampled_from(HOW), st.floats(0, 1), st.sampled_from(TOKENS), st.integers(1, 60))
plans = st.builds(
    Plan,
    st.integers(0, 3),
    st.lists(st.sampled_from(KINDS), min_size=1, max_size=5),
    st.lists(change, max_size=4),
    st.lists(st.floats(0, 1), max_size=5),
)


class Caller:
    """Writes requests with bodies that begin with a number of their own."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._numbers = count(10_000_000)

    def request(self, kind: str, numbers: list[int]) -> bytes:
        if kind == "read":
            return b"GET /v2 HTTP/1.1\r\nHost: h\r\n\r\n"
        number = next(self._numbers)
        numbers.append(number)
        body = b"%d" % number
        fields = [f"Authorization: Bearer {self._key}"]
        if kind == "chunked":
            fields.append("Transfer-Encoding: chunked")
            body = b"3\r\n" + body[:3] + b"\r\n5;x=y\r\n" + body[3:] + b"\r\n0\r\nX-Trailer: z\r\n\r\n"
        else:
            body += bytes(KEPT) if kind == "long" else b""
            fields.append(f"Content-Length: {len(body)}")
        fields += ["Connection: upgrade", "Upgrade: h2c"] if kind == "offers" else []
        fields += ["Expect: 100-continue"] if kind == "waits" else []
        path = "/v2/models/%0d%0aX:%20y%ff/infer" if kind == "unknown" else "/v2/models/m/infer"
        return "\r\n".join([f"POST {path} HTTP/1.1", "Host: h", *fields, "", ""]).encode() + body

    def segments(self, plan: Plan) -> list[bytes]:
        """The good requests whole, then the others changed, cut where the plan says."""
        start = b"".join(self.request("same", plan.numbers) for _ in range(plan.good))
        rest = b"".join(self.request(kind, plan.numbers) for kind in plan.kinds)
        for how, where, token, size in plan.changes:
            at = int(where * min(len(rest), 2000))
            end = at if how == "insert" else min(len(rest), at + size)
            part = {"insert": token, "delete": b"", "replace": token, "repeat": rest[at:end] * 2}[how]
            rest = rest[:at] + part + rest[end:]
        data = start + rest
        cuts = sorted({int(cut * min(len(data), 3000)) for cut in plan.cuts} | {0, len(data)})
        return [data[a:b] for a, b in pairwise(cuts)]


def answers_in(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Status, head and body of each answer; all of `data` must be answers."""
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        assert end, head
        assert (
            re.fullmatch(rb"HTTP/1\.1 \d{3} [ -~]*(\r\n[a-z-]+: [^\r\n\0]*)+", head) or head == b"HTTP/1.1 100 Continue"
        )
        status = int(head[9:12])
        lengths = re.findall(rb"\r\ncontent-length: (\d+)", head)
        if status == 100:
            continue
        if lengths:
            assert len(lengths) == 1
            body, data = data[: int(lengths[0])], data[int(lengths[0]) :]
            assert len(body) == int(lengths[0])
        else:
            assert b"\r\ntransfer-encoding: chunked" in head
            body = b""
            while True:
                size, _, data = data.partition(b"\r\n")
                part, data = data[: int(size, 16)], data[int(size, 16) + 2 :]
                body += part
                if not part:
                    break
        yield status, head, body
        assert not data or b"\r\nconnection: close" not in head


async def echo(_host: FakeHost, seen: Seen, writer: asyncio.StreamWriter) -> bool:
    """Answer with the request's body."""
    writer.write(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n%b" % (len(seen.body), seen.body)
    )
    await writer.drain()
    return True


def unread(transport: asyncio.BaseTransport) -> int:
    count = array("i", [0])
    fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.FIONREAD, count)
    return count[0]


def waits(connection: Connection, caller: asyncio.WriteTransport) -> bool:
    """Everything was sent, read and answered: the server waits for the caller."""
    transport, exchange = connection._transport, connection.exchange
    if transport is None or caller.is_closing() or connection._lingers:
        return False  # the end is to be heard
    unsent = caller.get_write_buffer_size() or unread(transport) or transport.get_write_buffer_size() or unread(caller)
    within = exchange is not None and exchange.streamed and not exchange.complete and not exchange.waiting_bytes
    return not unsent and not connection.behind and (exchange is None or within)


async def said(router: RunningRouter, segments: list[bytes]) -> bytes:
    """All that the router says to these bytes on a connection of their own, until it waits for more or has closed."""
    server = router.app.server
    assert server is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
    heard = bytearray()

    async def listen() -> None:
        with contextlib.suppress(ConnectionError):
            while part := await reader.read(65536):
                heard.extend(part)

    listening = asyncio.create_task(listen())
    try:
        async with asyncio.timeout(8):
            await until(lambda: server.connections, "the connection")
            (connection,) = server.connections
            for segment in segments:
                writer.write(segment)
                await asyncio.sleep(0.0005)
            looks = 0
            while looks < 3 and not listening.done():
                looks = looks + 1 if waits(connection, writer.transport) else 0
                await asyncio.sleep(0.0005)
    finally:
        writer.transport.abort()
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await until(lambda: not server.connections, "the end of the connection")
    return bytes(heard)


def judge(heard: bytes, sent: bytes, plan: Plan) -> None:
    """Each answer is that of a request of this connection, in order, or a refusal in the protocol's form."""
    answers = list(answers_in(heard))
    owed = [b"%d" % number for number in plan.numbers]
    assert [body for _, _, body in answers[: plan.good]] == owed[: plan.good]
    at = 0
    for status, head, body in answers:
        event(f"{status}")
        assert status < 500 or status == 505, (status, body)
        if status == 200 and body[:8] in owed:
            found = owed.index(body[:8])
            assert found >= at, "answers out of order"
            at = found + 1
        elif status == 200:
            assert body.startswith(b'{"name":"moorage"') or body in sent or b"chunked" in sent
        else:
            assert b"\r\ncontent-type: application/json\r\n" in head
            assert b"\r\nmoorage-error: " in head
            told = json.loads(body)
            assert list(told) == ["error"]
            assert isinstance(told["error"], str)


@pytest.fixture
async def caller(router: RunningRouter, desired: Desired, host: FakeHost) -> Caller:
    host.behaviour = echo
    key = await desired.key()
    await desired.limits(requests_per_s=1_000_000, burst=1_000_000)
    await desired.route({1: 10_000})
    await desired.host(host, 1)
    await router.knows(key, 1)
    return Caller(key.text)


@settings(
    max_examples=EXAMPLES, deadline=None, derandomize="MOORAGE_FUZZ_EXAMPLES" not in os.environ, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.large_base_example],
)  # fmt: skip
@given(plan=plans)
async def test_bytes_that_are_almost_http_get_their_own_answers_or_refusals(
    router: RunningRouter, caller: Caller, plan: Plan
) -> None:
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    segments = caller.segments(plan)
    judge(await said(router, segments), b"".join(segments), plan)
    numbers: list[int] = []
    after = list(answers_in(await said(router, [caller.request("same", numbers)])))
    assert [(status, body) for status, _, body in after] == [(200, b"%d" % numbers[0])]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < MOST_MB * 1024
