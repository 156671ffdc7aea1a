"""The HTTP/1.1 server: requests in, answers out, in order, within bounds."""

import asyncio
import sys
from pathlib import Path

import pytest

from moorage_common.http1 import Exchange

sys.path.append(str(Path(__file__).parent))
from http1_harness import post, running, until

KEPT = 256 * 1024


async def test_requests_on_one_connection_are_answered_in_order_also_when_sent_at_once() -> None:
    async with running() as server:
        peer = await server.connect()
        peer.send(post(b"a", "/1") + post(b"bb", "/2") + b"GET /3?x=1 HTTP/1.1\r\nHost: h\r\n\r\n")
        assert [(await peer.answer()).body for _ in range(3)] == [b'{"bytes": 1}', b'{"bytes": 2}', b'{"bytes": 0}']
        assert server.seen == [("POST", "/1", b"a"), ("POST", "/2", b"bb"), ("GET", "/3", b"")]


async def test_a_request_in_single_bytes_is_the_same_request() -> None:
    async with running() as server:
        peer = await server.connect()
        for byte in post(b"body", "/x"):
            peer.send(bytes([byte]))
            await peer.writer.drain()
            await asyncio.sleep(0)
        assert (await peer.answer()).status == 200
        assert server.seen == [("POST", "/x", b"body")]


@pytest.mark.parametrize("second", [b"", b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", post(b"12345678", "/other")])
async def test_equal_heads_do_not_make_different_requests_equal(second: bytes) -> None:
    """A connection that repeats its head is not parsed again; anything else is."""
    async with running() as server:
        peer = await server.connect()
        bodies = [b"12345678", b"abcdefgh", b"\r\n\r\nabcd"]
        for body in bodies:
            peer.send(post(body, "/same") + second)
            assert (await peer.answer()).status == 200
            if second:
                assert (await peer.answer()).status == 200
        assert [body for _, path, body in server.seen if path == "/same"] == bodies
        assert len(server.seen) == len(bodies) * (2 if second else 1)


async def test_a_repeated_head_with_a_body_that_comes_later_or_with_more_behind_it_is_parsed() -> None:
    async with running() as server:
        peer = await server.connect()
        whole = post(b"12345678", "/same")
        for parts in ([whole], [whole], [whole[:-3], whole[-3:]], [whole], [whole + whole], [whole]):
            for part in parts:
                peer.send(part)
                await peer.writer.drain()
                await asyncio.sleep(0.01)
        for _ in range(7):
            assert (await peer.answer()).status == 200
        assert server.seen == [("POST", "/same", b"12345678")] * 7


async def test_head_requests_get_the_length_without_the_body() -> None:
    async with running() as server:
        peer = await server.connect()
        peer.send(b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n")
        answer = await peer.answer(head_only=True)
        assert answer.headers["content-length"] == "12"
        peer.send(post())
        assert (await peer.answer()).body == b'{"bytes": 0}'


async def test_the_connection_stays_or_ends_as_the_caller_asks() -> None:
    async with running() as server:
        for version, connection, stays in (
            ("1.1", "", True), ("1.1", "Connection: close\r\n", False), ("1.0", "", False),
            ("1.0", "Connection: keep-alive\r\n", True),
        ):  # fmt: skip
            peer = await server.connect()
            peer.send(f"GET / HTTP/{version}\r\nHost: h\r\n{connection}\r\n".encode())
            answer = await peer.answer()
            assert answer.closes is not stays
            if not stays:
                assert await peer.ended() == b""


async def test_an_offer_of_another_protocol_is_passed_over() -> None:
    """Java's client offers h2c with each request."""
    async with running() as server:
        peer = await server.connect()
        offer = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAAQ"}
        for _ in range(3):
            peer.send(post(b"abc", "/x", **offer) + post(b"de", "/y"))
            assert (await peer.answer()).body == b'{"bytes": 3}'
            assert (await peer.answer()).body == b'{"bytes": 2}'


async def test_a_caller_that_goes_away_cancels_its_handler() -> None:
    entered = asyncio.Event()

    async def forever(_exchange: Exchange) -> None:
        entered.set()
        await asyncio.Event().wait()

    async with running(forever) as server:
        peer = await server.connect()
        peer.send(post())
        await entered.wait()
        peer.writer.transport.abort()
        await until(lambda: server.cancelled == 1, "the cancellation")
        assert not server.server.connections


async def test_a_handler_that_fails_is_an_answer_and_one_that_fails_midway_breaks_the_connection() -> None:
    async def fails(exchange: Exchange) -> None:
        if exchange.head.path == b"/midway":
            exchange.begin(200, b"", 100)
            await exchange.send(b"half")
        raise RuntimeError("planted")

    async with running(fails) as server:
        assert (await server.ask(post())).status == 500
        peer = await server.connect()
        peer.send(post(b"", "/midway"))
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await peer.answer()


@pytest.mark.parametrize(
    ("sent", "limits"),
    [
        (b"", {"idle_s": 0.1}),
        (post(), {"idle_s": 0.1}),
    ],
)
async def test_idle_connections_end(sent: bytes, limits: dict[str, float]) -> None:
    async with running(**limits) as server:
        peer = await server.connect()
        peer.send(sent)
        if sent:
            assert (await peer.answer()).status == 200
        assert await peer.ended() == b""


@pytest.mark.parametrize(
    "sent", [b"P", b"POST / HTTP/1.1\r\nHost: h\r\nX-Slow:", post(b"", "/", Content_Length="10") + b"half"]
)
async def test_a_request_that_does_not_come_is_refused(sent: bytes) -> None:
    async with running(head_s=0.1, body_s=0.1) as server:
        answer = await server.ask(sent)
        assert (answer.status, answer.headers["moorage-error"], answer.closes) == (408, "too_slow", True)


async def test_connections_beyond_the_limit_are_refused_and_the_others_stay() -> None:
    async with running(connections=2) as server:
        first, second = await server.connect(), await server.connect()
        for peer in (first, second):
            peer.send(post())
            assert (await peer.answer()).status == 200
        answer = await (await server.connect()).answer()
        assert (answer.status, answer.headers["moorage-error"]) == (503, "too_many_connections")
        first.send(post())
        assert (await first.answer()).status == 200


async def test_draining_answers_what_is_under_way_and_what_still_comes_and_closes_the_idle() -> None:
    go = asyncio.Event()

    async def waits(exchange: Exchange) -> None:
        if exchange.head.path == b"/slow":
            await go.wait()
        exchange.respond(200, b"", b"done")

    async with running(waits, drain_linger_s=0.5) as server:
        busy, coming, idle = [await server.connect() for _ in range(3)]
        busy.send(post(b"", "/slow"))
        await until(lambda: any(c.exchange for c in server.server.connections), "the slow one")
        draining = asyncio.create_task(server.server.drain())
        await asyncio.sleep(0.1)
        coming.send(post())
        late = await coming.answer()
        assert (late.body, late.closes) == (b"done", True)
        assert await idle.ended() == b""
        assert not draining.done()
        go.set()
        answer = await busy.answer()
        assert (answer.body, answer.closes) == (b"done", True)
        await draining
        with pytest.raises(ConnectionRefusedError):
            # The listening socket of the test is still open, but nobody takes from it.
            await asyncio.wait_for(_refused(server.port), 1)


async def _refused(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(post())
    try:
        async with asyncio.timeout(0.2):
            await reader.read(1)
    except TimeoutError:
        raise ConnectionRefusedError from None
    finally:
        writer.transport.abort()


async def test_leave_is_given_when_a_requests_turn_comes() -> None:
    go = asyncio.Event()

    async def waits(exchange: Exchange) -> None:
        await go.wait()
        exchange.respond(200, b"", exchange.body or b"")

    async with running(waits) as server:
        peer = await server.connect()
        head = post(b"", "/", Expect="100-continue").replace(b"Length: 0", b"Length: 3")
        peer.send(post(b"first") + head)
        await until(lambda: any(c._incoming.reading for c in server.server.connections), "the second's head")
        go.set()
        assert (await peer.answer()).body == b"first"
        assert (await peer.answer()).status == 100
        peer.send(b"abc")
        assert (await peer.answer()).body == b"abc"


async def test_the_last_answer_of_a_connection_arrives_though_more_was_sent_ahead() -> None:
    """Closing at once, with bytes unread, would reset the connection."""
    go = asyncio.Event()

    async def waits(exchange: Exchange) -> None:
        await go.wait()
        exchange.respond(200, b"", b"done")

    async with running(waits, drain_linger_s=0.1) as server:
        peer = await server.connect()
        peer.writer.transport.pause_reading()
        peer.send(post() * 50_000)
        await until(lambda: any(c._paused for c in server.server.connections), "the queue")
        draining = asyncio.create_task(server.server.drain())
        await until(lambda: server.server.draining, "the drain")
        go.set()
        (connection,) = server.server.connections
        await until(lambda: connection.exchange is None, "the answer")
        peer.writer.transport.resume_reading()
        answer = await peer.answer()
        assert (answer.body, answer.closes) == (b"done", True)
        async with asyncio.timeout(10):
            assert await peer.reader.read() == b""  # not reset
        await draining
