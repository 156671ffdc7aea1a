"""Requests that two readers could understand differently, or that take more than they may: all refused."""

import asyncio
import sys
from pathlib import Path

import pytest

from moorage_common.http1 import Exchange

sys.path.append(str(Path(__file__).parent))
from http1_harness import post, running, until

START = b"POST /x HTTP/1.1\r\n"
HOST = b"Host: h\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"


def request(*fields: bytes, body: bytes = b"", start: bytes = START, host: bytes = HOST) -> bytes:
    return start + host + b"".join(field + b"\r\n" for field in fields) + b"\r\n" + body


AMBIGUOUS = {
    "length and chunked": request(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED),
    "chunked and length": request(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n" + SMUGGLED),
    "two lengths": request(b"Content-Length: 5", b"Content-Length: 0", body=SMUGGLED),
    "the same length twice": request(b"Content-Length: 0", b"Content-Length: 0", body=SMUGGLED),
    "a list of lengths": request(b"Content-Length: 0, 0", body=SMUGGLED),
    "a signed length": request(b"Content-Length: +5", body=b"abcde"),
    "a negative length": request(b"Content-Length: -1", body=b"abcde"),
    "a hexadecimal length": request(b"Content-Length: 0x5", body=b"abcde"),
    "a length with an underscore": request(b"Content-Length: 1_0", body=b"abcdefghij"),
    "an empty length": request(b"Content-Length: ", body=b"abcde"),
    "a length beyond 64 bits": request(b"Content-Length: 99999999999999999999999", body=b"abcde"),
    "a length in other digits": request("Content-Length: ٥".encode(), body=b"abcde"),
    "space before the colon": request(b"Content-Length : 5", body=b"abcde"),
    "tab before the colon": request(b"Transfer-Encoding\t: chunked", body=b"0\r\n\r\n"),
    "a folded length": request(b"Content-Length:\r\n 5", body=b"abcde"),
    "a folded field": request(b"X-A: b\r\n c", b"Content-Length: 0"),
    "a folded first line": START + b" X: y\r\n" + HOST + b"\r\n",
    "bare line feeds": b"POST /x HTTP/1.1\nHost: h\nContent-Length: 0\n\n",
    "one bare line feed": START + HOST + b"X: a\nContent-Length: 5\r\n\r\nabcde",
    "a bare carriage return": request(b"X: a\rContent-Length: 5", body=b"abcde"),
    "a null in a value": request(b"X: a\0b"),
    "a null in a name": request(b"X\0: a"),
    "a name without a token": request(b": a"),
    "a name with brackets": request(b"X(: a"),
    "no colon": request(b"Content-Length 5", body=b"abcde"),
    "chunked twice": request(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "chunked not last": request(b"Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n"),
    "chunked behind another": request(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
    "identity": request(b"Transfer-Encoding: identity", body=b"0\r\n\r\n"),
    "almost chunked": request(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    "chunked with a control character": request(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"),
    "chunked quoted": request(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n"),
    "chunked in 1.0": request(b"Transfer-Encoding: chunked", body=b"0\r\n\r\n", start=b"POST /x HTTP/1.0\r\n"),
    "a chunk of negative size": request(b"Transfer-Encoding: chunked", body=b"-1\r\nabc\r\n0\r\n\r\n"),
    "a chunk size with a prefix": request(b"Transfer-Encoding: chunked", body=b"0x3\r\nabc\r\n0\r\n\r\n"),
    "a chunk size beyond 64 bits": request(b"Transfer-Encoding: chunked", body=b"fffffffffffffffff\r\nabc\r\n"),
    "a chunk size without its end": request(b"Transfer-Encoding: chunked", body=b"3\nabc\r\n0\r\n\r\n"),
    "a chunk longer than it says": request(b"Transfer-Encoding: chunked", body=b"2\r\nabc\r\n0\r\n\r\n"),
    "two hosts": request(b"Host: other"),
    "no host": request(host=b""),
    "HTTP/0.9": b"GET /x\r\n\r\n",
    "HTTP/1.2": request(start=b"POST /x HTTP/1.2\r\n"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "space before the method": b" " + request(),
    "space in the target": request(start=b"POST /a b HTTP/1.1\r\n"),
    "no method": request(start=b"/x HTTP/1.1\r\n"),
    "another expectation": request(b"Expect: 200-ok", b"Content-Length: 0"),
    "TLS": bytes.fromhex("16030100a5010000a10303") + bytes(200),
}


@pytest.mark.parametrize("sent", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
async def test_ambiguous_requests_are_refused_and_nothing_behind_them_is_served(sent: bytes) -> None:
    async with running() as server:
        peer = await server.connect()
        peer.send(sent)
        answer = await peer.answer()
        assert answer.status in {400, 417, 505}
        assert answer.closes
        assert answer.headers["content-type"] == "application/json"
        assert answer.body.startswith(b'{"error":"')
        assert await peer.ended() == b""
        assert not server.seen


@pytest.mark.parametrize("sent", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
async def test_the_same_behind_a_good_request_ends_the_connection_after_its_answer(sent: bytes) -> None:
    async with running() as server:
        peer = await server.connect()
        peer.send(post(b"good", "/good") + sent)
        assert (await peer.answer()).status == 200
        assert (await peer.answer()).status in {400, 417, 505}
        assert await peer.ended() == b""
        assert [path for _, path, _ in server.seen] == ["/good"]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 414),
        (b"GET /" + b"a" * 200_000, 414),
        (request(b"X: " + b"a" * 70_000), 431),
        (request(*(b"X-%d: a" % i for i in range(101))), 431),
        (request(*(b"X-%d: %b" % (i, b"a" * 1000) for i in range(80))), 431),
        (START + HOST + b"X: " + b"a" * 200_000, 431),
        (START + HOST + b"a" * 200_000, 431),
    ],
    ids=[
        "long target",
        "endless target",
        "long field",
        "many fields",
        "many long fields",
        "endless field",
        "endless name",
    ],
)
async def test_heads_beyond_their_bounds_are_refused(sent: bytes, status: int) -> None:
    async with running() as server:
        answer = await server.ask(sent)
        assert (answer.status, answer.closes) == (status, True)
        assert not server.seen


async def test_chunks_of_one_byte_without_end_are_refused() -> None:
    async with running() as server:
        peer = await server.connect()
        peer.send(request(b"Transfer-Encoding: chunked"))
        tiny = b"1;" + b"x" * 500 + b"\r\na\r\n"

        async def push() -> None:
            while True:
                peer.send(tiny * 100)
                await peer.writer.drain()

        pushing = asyncio.create_task(push())
        assert (await peer.answer()).status == 400
        pushing.cancel()
        await asyncio.gather(pushing, return_exceptions=True)
        assert not server.seen


async def test_a_head_is_never_known_by_the_bytes_of_another_request_that_came_with_it() -> None:
    """The first segment ends so far within the second body that all behind the first head is as long as that body."""
    async with running() as server:
        peer = await server.connect()
        first = post(path="/first")
        second = post(b"x" * 100, "/second")
        cut = len(first) + 100
        for _ in range(3):
            peer.send((first + second)[:cut])
            assert (await peer.answer()).status == 200
            peer.send((first + second)[cut:])
            assert (await peer.answer()).status == 200
        assert server.seen == [("POST", "/first", b""), ("POST", "/second", b"x" * 100)] * 3


async def test_a_head_is_never_known_by_its_end_alone() -> None:
    """The head begins while the request before is answered and ends, in what looks like a request, after that."""
    go, seen = asyncio.Event(), []

    async def handler(exchange: Exchange) -> None:
        seen.append((exchange.head.path, exchange.body))
        if exchange.head.path == b"/slow":
            await go.wait()
        exchange.respond(200, b"", b"")

    async with running(handler) as server:
        peer = await server.connect()
        peer.send(post(path="/slow"))
        await until(lambda: seen, "the slow one")
        (connection,) = server.server.connections
        peer.send(b"POST /cut HTTP/1.1\r\nX: ")
        await until(lambda: connection._incoming.begun, "the next one's first bytes")
        go.set()
        assert (await peer.answer()).status == 200
        for _ in range(2):
            peer.send(post(b"abc", "/other"))
            assert (await peer.answer()).status == 200
        assert seen[1:] == [(b"/cut", b"abc"), (b"/other", b"abc")]
