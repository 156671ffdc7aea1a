"""The router's connections to hosts: whose answer is whose, and what becomes of those that wait."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

import pytest
import uvloop
from router_harness import until

from moorage_router.pool import Pool
from moorage_router.upstream import AnswerLost, UpstreamError

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HEAD = b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@contextlib.asynccontextmanager
async def host(serve: Serve) -> AsyncIterator[tuple[Pool, Callable[[], None]]]:
    """A pool of two connections to a server, and how to make that one die."""
    writers: list[asyncio.StreamWriter] = []

    async def serving(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await serve(reader, writer)

    server = await asyncio.start_server(serving, "127.0.0.1", 0)

    def die() -> None:
        server.close()
        for writer in writers:
            writer.transport.abort()

    pool = Pool(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", 2)
    try:
        yield pool, die
    finally:
        pool.close()
        die()


async def ask(pool: Pool) -> bytes:
    reply = await pool.exchange(HEAD, b"", time.monotonic() + 20)
    return b"".join([part async for part in reply.chunks()])


async def test_when_a_host_dies_all_that_wait_for_a_connection_hear_of_it() -> None:
    asked = 0

    async def never(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await reader.readuntil(b"\r\n\r\n")
        asked += 1
        await reader.read()

    async with host(never) as (pool, die), asyncio.timeout(10):
        asks = [asyncio.create_task(ask(pool)) for _ in range(20)]
        await until(lambda: asked == 2, "the first two")
        die()
        for answer in await asyncio.gather(*asks, return_exceptions=True):
            assert isinstance(answer, UpstreamError)
        assert pool.empty


@pytest.mark.parametrize("turns", range(6))
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_caller_that_gives_up_while_a_connection_opens_leaves_its_place_to_the_next(
    run: Callable[[Coroutine[None, None, None]], None], turns: int
) -> None:
    run(_give_up_after(turns))


async def _give_up_after(turns: int) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK)

    async with host(answer) as (pool, _die), asyncio.timeout(10):
        for _ in range(4):
            first = [asyncio.create_task(ask(pool)) for _ in range(2)]
            for _turn in range(turns):
                await asyncio.sleep(0)
            for task in first:
                task.cancel()
        rest = [asyncio.create_task(ask(pool)) for _ in range(5)]
        assert await asyncio.gather(*rest) == [b"ok"] * 5


@pytest.mark.parametrize("more", [OK.replace(b"ok", b"no"), OK[:30], b"HTTP/1.1 200 OK\r\nx: y\r\n"])
async def test_what_a_host_says_unasked_is_nobodys_answer(more: bytes) -> None:
    """Whole or cut, in the same segment as the answer before it."""
    connections = 0

    async def talks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK + more)

    async with host(talks) as (pool, _die), asyncio.timeout(10):
        for number in range(1, 4):
            reply = await pool.exchange(HEAD, b"", time.monotonic() + 20)
            assert (reply.body, reply.headers) == (b"ok", [(b"content-length", b"2")])
            assert connections == number
        assert not any(await asyncio.gather(*(_is_wrong(pool) for _ in range(8))))


async def _is_wrong(pool: Pool) -> bool:
    with contextlib.suppress(AnswerLost):
        return await ask(pool) != b"ok"
    return False


class Stalled:
    """A body of which half comes."""

    length: int | None = 1_000_000
    can_splice = False

    async def chunks(self) -> AsyncIterator[bytes]:
        yield bytes(400_000)
        await asyncio.Event().wait()


async def test_an_answer_that_comes_before_the_upload_has_ended_does_not_wait_for_it() -> None:
    async def refuses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await reader.read()

    async with host(refuses) as (pool, _die), asyncio.timeout(10):
        reply = await pool.exchange(HEAD.replace(b": 0", b": 1000000"), Stalled(), time.monotonic() + 20)
        assert reply.body == b"ok"
        await until(lambda: pool.empty, "the end of that connection")


async def test_an_upload_that_stalls_ends_with_the_deadline() -> None:
    async def reads(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with host(reads) as (pool, _die), asyncio.timeout(10):
        asking = asyncio.create_task(pool.exchange(HEAD, Stalled(), time.monotonic() + 0.2))
        await until(lambda: pool.sweep(time.monotonic()) or asking.done(), "the end")
        assert isinstance(asking.exception(), UpstreamError)
