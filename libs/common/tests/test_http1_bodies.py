"""Long bodies and long answers: bounded on the way, whole at their end, and ended with their caller."""

import asyncio
import contextlib
import hashlib
import random
import socket
import sys
from pathlib import Path

import pytest

from moorage_common.http1 import ClientGone, Exchange

sys.path.append(str(Path(__file__).parent))
from http1_harness import post, running, until

KEPT = 256 * 1024


@pytest.mark.parametrize("size", [100, KEPT + 1])
async def test_a_caller_that_waits_for_leave_gets_it_before_the_body(size: int) -> None:
    async with running() as server:
        peer = await server.connect()
        whole = post(b"x" * size, "/", Expect="100-continue")
        peer.send(whole[:-size])
        assert (await peer.answer()).status == 100
        peer.send(whole[-size:])
        assert (await peer.answer()).body == b'{"bytes": %d}' % size


async def test_long_bodies_come_part_by_part_and_a_handler_that_takes_none_stops_the_caller() -> None:
    go, taken = asyncio.Event(), 0

    async def slow(exchange: Exchange) -> None:
        nonlocal taken
        assert exchange.body is None
        await go.wait()
        while (part := await exchange.next_part()) is not None:
            taken += len(part)
        exchange.respond(200, b"", b"")

    size = 64 * 1024 * 1024
    async with running(slow) as server:
        peer = await server.connect()
        peer.send(post(b"", "/", Content_Length=str(size)))

        async def push() -> None:
            for _ in range(size // 65536):
                peer.send(bytes(65536))
                await peer.writer.drain()

        pushing = asyncio.create_task(push())
        await until(lambda: server.server.connections, "the connection")
        (connection,) = server.server.connections
        await until(
            lambda: connection.exchange is not None and connection.exchange.waiting_bytes > KEPT, "a full buffer"
        )
        for _ in range(20):
            await asyncio.sleep(0.005)
            assert connection.exchange is not None
            assert connection.exchange.waiting_bytes < 3 * KEPT
        assert not pushing.done()
        go.set()
        await pushing
        assert (await peer.answer()).status == 200
        assert taken == size


async def test_a_long_body_of_known_length_is_read_into_one_buffer_and_what_follows_it_is_another_request() -> None:
    async def reads(exchange: Exchange) -> None:
        body = await exchange.read_whole()
        exchange.respond(200, b"", hashlib.sha256(body).hexdigest().encode())

    async with running(reads) as server:
        peer = await server.connect()
        bodies = [bytes([n]) * (KEPT * 4 + n) for n in range(1, 4)]
        peer.send(b"".join(post(body) + post(b"short") for body in bodies))
        for body in bodies:
            assert (await peer.answer()).body.decode() == hashlib.sha256(body).hexdigest()
            assert (await peer.answer()).body.decode() == hashlib.sha256(b"short").hexdigest()


async def test_a_caller_that_leaves_or_stalls_within_a_body_read_whole_ends_it() -> None:
    ended: list[str] = []

    async def reads(exchange: Exchange) -> None:
        try:
            await exchange.read_whole()
        except (ClientGone, asyncio.CancelledError) as error:
            ended.append(type(error).__name__)
            raise

    async with running(reads, body_s=0.2) as server:
        for stays in (False, True):
            peer = await server.connect()
            peer.send(post(b"", "/", Content_Length=str(10 * KEPT)) + bytes(KEPT))
            await until(lambda: any(c.exchange for c in server.server.connections), "the handler")
            if not stays:
                peer.writer.transport.abort()
            await until(lambda: len(ended) == 1 + stays, "its end")  # noqa: B023 - awaited here
            await until(lambda: not any(c.exchange for c in server.server.connections), "the connection's")


async def test_a_chunked_body_is_whole_when_small_and_in_parts_when_long() -> None:
    async with running() as server:
        peer = await server.connect()
        head = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        peer.send(head + b"3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nX-Trailer: 1\r\n\r\n")
        assert (await peer.answer()).body == b'{"bytes": 5}'
        chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
        peer.send(head + chunk * 10 + b"0\r\n\r\n")
        assert (await peer.answer()).body == b'{"bytes": 655360}'


async def test_a_long_answer_waits_for_a_slow_reader() -> None:
    sent = 0

    async def long(exchange: Exchange) -> None:
        nonlocal sent
        exchange.begin(200, b"", None)
        for _ in range(400):
            await exchange.send(bytes(65536))
            sent += 65536
        exchange.end()

    async with running(long) as server:
        peer = await server.connect()
        peer.writer.transport.pause_reading()
        peer.send(post())
        await until(lambda: sent, "the first part")
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.05)
        assert sent < 400 * 65536
        peer.writer.transport.resume_reading()
        assert len((await peer.answer()).body) == 400 * 65536


async def test_a_caller_that_goes_away_within_its_body_is_told_to_the_handler() -> None:
    gone = asyncio.Event()

    async def reads(exchange: Exchange) -> None:
        try:
            while await exchange.next_part() is not None:
                pass
        except (ClientGone, asyncio.CancelledError):
            gone.set()
            raise

    async with running(reads) as server:
        peer = await server.connect()
        peer.send(post(b"", "/", Content_Length=str(10 * KEPT)) + bytes(KEPT))
        await until(lambda: any(c.exchange for c in server.server.connections), "the handler")
        peer.writer.transport.abort()
        await asyncio.wait_for(gone.wait(), 10)


async def test_an_answer_before_the_body_was_read_reaches_the_caller() -> None:
    async def refuses(exchange: Exchange) -> None:
        exchange.respond(413, b"", b"too large")

    async with running(refuses) as server:
        peer = await server.connect()
        peer.send(post(b"", "/", Content_Length=str(100 * KEPT)) + bytes(4 * KEPT))
        answer = await peer.answer()
        assert (answer.status, answer.body, answer.closes) == (413, b"too large", True)
        with contextlib.suppress(ConnectionError):
            peer.send(bytes(KEPT))
            await peer.writer.drain()
        assert await peer.ended() == b""


async def test_a_last_answer_waits_for_a_slow_reader_longer_than_for_the_end_of_its_body() -> None:
    async def refuses(exchange: Exchange) -> None:
        exchange.respond(413, b"", bytes(8 * 1024 * 1024))

    async with running(refuses, linger_s=0.1) as server:
        peer = await server.connect()
        peer.writer.transport.pause_reading()
        peer.send(post(b"", "/", Content_Length=str(100 * KEPT)) + bytes(KEPT))
        await until(lambda: any(c._lingers for c in server.server.connections), "the answer")
        await asyncio.sleep(1.2)
        peer.writer.transport.resume_reading()
        assert len((await peer.answer()).body) == 8 * 1024 * 1024


@pytest.mark.parametrize(
    ("rest", "status", "code"),
    [(b"zz\r\n", 400, "bad_http"), (b"1;" + b"x" * 100_000, 431, "head_too_large"), (b"", 408, "too_slow")],
    ids=["no chunk", "an endless extension", "nothing"],
)
async def test_a_long_body_that_breaks_off_is_told_to_the_caller(rest: bytes, status: int, code: str) -> None:
    async with running(body_s=0.3) as server:
        peer = await server.connect()
        peer.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(8):
            peer.send(b"10000\r\n" + bytes(65536) + b"\r\n")
        peer.send(rest)
        answer = await peer.answer()
        assert (answer.status, answer.headers["moorage-error"], answer.closes) == (status, code, True)
        assert await peer.ended() == b""
        assert not server.seen


async def test_a_long_body_that_breaks_off_while_it_waits_its_turn_is_told_to_the_caller_at_once() -> None:
    go = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        if exchange.head.path == b"/first":
            await go.wait()
        else:
            while await exchange.next_part() is not None:
                pass
        exchange.respond(200, b"", b"")

    async with running(handler) as server:
        peer = await server.connect()
        head = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        peer.send(post(path="/first") + head + b"50000\r\n" + bytes(0x50000) + b"\r\nzz\r\n")
        await until(lambda: any(c._paused for c in server.server.connections), "the second")
        go.set()
        assert (await peer.answer()).status == 200
        assert (await peer.answer()).status == 400


async def test_a_long_body_is_spliced_to_another_socket_whole_and_what_follows_it_is_another_request() -> None:
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
    size = 5 * 1024 * 1024 + 17
    sent = random.Random(0).randbytes(size)

    async def ready(descriptor: int, writing: bool) -> None:
        loop, event = asyncio.get_running_loop(), asyncio.Event()
        (loop.add_writer if writing else loop.add_reader)(descriptor, event.set)
        await event.wait()
        (loop.remove_writer if writing else loop.remove_reader)(descriptor)

    async def passes_on(exchange: Exchange) -> None:
        if exchange.body is None:
            assert exchange.can_splice
            first = exchange.begin_splice()
            await asyncio.get_running_loop().sock_sendall(ours, first)
            moved = await exchange.splice(ours.fileno(), ready)
            assert len(first) + moved == size
        exchange.respond(200, b"", b"passed on")

    async def receive() -> bytes:
        parts = []
        while sum(map(len, parts)) < size:
            parts.append(await asyncio.get_running_loop().sock_recv(theirs, 100_000))
        return b"".join(parts)

    async with running(passes_on) as server:
        peer = await server.connect()
        for _ in range(2):
            receiving = asyncio.create_task(receive())
            whole = post(sent) + post(b"short")
            for at in range(0, len(whole), 700_001):
                peer.send(whole[at : at + 700_001])
                await peer.writer.drain()
            assert [(await peer.answer()).body for _ in range(2)] == [b"passed on"] * 2
            assert await receiving == sent
    ours.close()
    theirs.close()


async def test_a_caller_that_leaves_while_its_body_is_spliced_ends_the_handler() -> None:
    ours, theirs = socket.socketpair()
    ended = asyncio.Event()

    async def never_writable(_descriptor: int, _writing: bool) -> None:
        loop, event = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(_descriptor, event.set)
        await event.wait()
        loop.remove_reader(_descriptor)

    async def passes_on(exchange: Exchange) -> None:
        try:
            exchange.begin_splice()
            await exchange.splice(ours.fileno(), never_writable)
        except (ClientGone, asyncio.CancelledError):
            ended.set()
            raise

    async with running(passes_on) as server:
        peer = await server.connect()
        peer.send(post(b"", "/", Content_Length=str(10 * KEPT)) + bytes(KEPT // 2))
        await until(lambda: any(c.exchange for c in server.server.connections), "the handler")
        peer.writer.transport.abort()
        await asyncio.wait_for(ended.wait(), 10)
    ours.close()
    theirs.close()
