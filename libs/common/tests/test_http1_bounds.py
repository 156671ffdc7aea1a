"""What one caller may take of a server's memory and time, whatever it sends and however little it reads."""

import asyncio
import sys
import time
from pathlib import Path

import pytest

from moorage_common.http1 import Exchange

sys.path.append(str(Path(__file__).parent))
from http1_harness import Peer, post, running, until

KEPT = 256 * 1024
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
UPGRADE = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"


async def push(peer: Peer, data: bytes, most: int) -> int:
    """Send `data` over and over until the other side stops reading for a while; the bytes it took, `most` at most."""
    sent = 0
    while sent < most:
        peer.send(data)
        sent += len(data)
        try:
            async with asyncio.timeout(0.5):
                await peer.writer.drain()
        except (TimeoutError, ConnectionError):
            break
    return sent


@pytest.mark.parametrize(
    "start",
    [b"GET /", b"GET / HTTP/1.1\r\nX: ", b"GET / HTTP/1.1\r\nX", b"GET / HTTP/1.1\r\nX: 1\r\n"],
    ids=["target", "field", "name", "fields"],
)
async def test_a_head_without_end_behind_a_request_under_way_is_not_kept(start: bytes) -> None:
    go = asyncio.Event()

    async def waits(exchange: Exchange) -> None:
        await go.wait()
        exchange.respond(200, b"", b"")

    async with running(waits) as server:
        peer = await server.connect()
        peer.send(post())
        await until(lambda: any(c.exchange for c in server.server.connections), "the handler")
        (connection,) = server.server.connections
        peer.send(start)
        more = b"X: " + b"a" * 5000 + b"\r\n" if start.endswith(b"\n") else b"a" * 50_000
        await push(peer, more, 8 * 1024 * 1024)
        await until(lambda: connection._incoming.refusal, "the refusal")
        assert connection._incoming.kept_bytes < 2**18
        go.set()
        assert (await peer.answer()).status == 200
        assert (await peer.answer()).status in {414, 431}


async def test_a_trailer_without_end_is_refused() -> None:
    async with running() as server:
        peer = await server.connect()
        peer.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(16):
            peer.send(b"10000\r\n" + bytes(65536) + b"\r\n")
        peer.send(b"0\r\nX: ")
        pushing = asyncio.create_task(push(peer, b"a" * 65536, 12 * 1024 * 1024))
        answer = await peer.answer()
        assert (answer.status, answer.headers["moorage-error"], answer.closes) == (431, "head_too_large", True)
        await pushing


async def test_requests_sent_ahead_wait_as_bytes() -> None:
    """Parsed, a request takes far more memory than it has bytes."""
    go = asyncio.Event()

    async def waits(exchange: Exchange) -> None:
        await go.wait()
        exchange.respond(200, b"", b"")

    async with running(waits) as server:
        peer = await server.connect()
        peer.send(GET * 20_000)
        await until(lambda: any(c._queue for c in server.server.connections), "the queue")
        (connection,) = server.server.connections
        assert connection._queue is not None
        assert len(connection._queue) < 1000
        go.set()
        for _ in range(20_000):
            assert (await peer.answer()).status == 200


async def test_offers_of_another_protocol_sent_ahead_are_all_passed_over() -> None:
    async with running() as server:
        peer = await server.connect()
        peer.send(UPGRADE * 5000)
        for _ in range(5000):
            assert (await peer.answer()).status == 200


@pytest.mark.parametrize("ahead", [1, 500])
async def test_a_caller_that_never_reads_is_served_no_further_and_ended(ahead: int) -> None:
    served = 0

    async def long(exchange: Exchange) -> None:
        nonlocal served
        served += 1
        exchange.respond(200, b"", bytes(50_000))

    async with running(long, write_s=1.5) as server:
        peer = await server.connect()
        peer.writer.transport.pause_reading()
        pushing = asyncio.create_task(push(peer, post() * ahead, 64 * 1024 * 1024))
        before = -1
        while before != served:
            before = served
            await asyncio.sleep(0.3)
        (connection,) = server.server.connections
        assert connection._transport is not None
        assert connection._transport.get_write_buffer_size() < 2**19
        assert served < 400
        began = time.monotonic()
        await until(lambda: not server.server.connections, "the end")
        assert time.monotonic() - began < 5
        await pushing


async def test_a_caller_that_reads_late_gets_every_answer_in_its_order() -> None:
    async def long(exchange: Exchange) -> None:
        exchange.respond(200, b"", exchange.head.path * 20_000)

    async with running(long) as server:
        peer = await server.connect()
        peer.writer.transport.pause_reading()
        for i in range(400):
            peer.send(post(path=f"/{i:03}"))
        await until(lambda: any(c._paused for c in server.server.connections), "the pause")
        peer.writer.transport.resume_reading()
        for i in range(400):
            assert (await peer.answer()).body[:4] == b"/%03d" % i
