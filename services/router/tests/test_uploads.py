"""Long bodies on their way through: nothing of them is lost, and who leaves is told from a fault."""

import asyncio
import contextlib
import socket

import pytest
from router_harness import Desired, FakeHost, RunningRouter, until
from test_hostile_callers import at_rest, head, one_version, pools

SIZE = 6 * 1024 * 1024


async def test_a_long_body_arrives_whole_at_a_host_that_reads_slower_than_the_caller_sends(
    router: RunningRouter, desired: Desired, host: FakeHost
) -> None:
    got = bytearray()
    go = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await answer(reader, writer)
        writer.transport.abort()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while lines := await reader.readuntil(b"\r\n\r\n"):
            if lines.startswith(b"GET "):
                writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
                continue
            length = int(lines.lower().partition(b"\r\ncontent-length: ")[2].split()[0])
            if length == len(body):
                await go.wait()
            got.clear()
            while len(got) < length and (part := await reader.read(20_000)):
                got.extend(part)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    body = b"".join(b"%08d" % i for i in range(SIZE // 8))
    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=8192)
    host.port = server.sockets[0].getsockname()[1]
    await desired.limits(max_body_bytes=2 * SIZE)
    key = await one_version(router, desired, host)
    assert (await router.infer(key)).status_code == 200
    for pool in pools(router):
        for connection in pool._all:
            assert connection._transport is not None
            sender = connection._transport.get_extra_info("socket")
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
    writer.write(head(key, f"Content-Length: {len(body)}"))
    for at in range(0, len(body), 100_000):
        writer.write(body[at : at + 100_000])
        await asyncio.sleep(0.0005)
    go.set()
    async with asyncio.timeout(20):
        told = await reader.readuntil(b"\r\n\r\n")
    assert told.startswith(b"HTTP/1.1 200")
    assert bytes(got) == body
    writer.close()
    server.close()
    for pool in pools(router):
        pool.close()
    await until(lambda: all(pool.empty for pool in pools(router)), "the end of the connections")
    await asyncio.sleep(0.05)


@pytest.mark.parametrize("reset", [False, True])
async def test_a_caller_that_leaves_within_its_upload_is_no_fault_of_ours(
    router: RunningRouter, desired: Desired, host: FakeHost, reset: bool
) -> None:
    await desired.limits(max_body_bytes=2 * SIZE)
    key = await one_version(router, desired, host)
    for _ in range(10):
        _reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
        writer.write(head(key, f"Content-Length: {SIZE}") + bytes(3_000_000))
        await writer.drain()
        await asyncio.sleep(0.02)
        if reset:
            linger = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.close()
    await until(lambda: at_rest(router), "rest")
    (series,) = router.app.metrics._versions.values()
    assert series.by_code == {499: 10}


async def test_a_host_that_dies_within_an_upload_is_an_answer_that_says_so(
    router: RunningRouter, desired: Desired, host: FakeHost
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readexactly(1_000_000)
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host.port = server.sockets[0].getsockname()[1]
    await desired.limits(max_body_bytes=2 * SIZE)
    key = await one_version(router, desired, host)
    for _ in range(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
        writer.write(head(key, f"Content-Length: {SIZE}") + bytes(5_000_000))
        async with asyncio.timeout(15):
            assert (await reader.readuntil(b"\r\n\r\n"))[9:12] in {b"502", b"503"}
        writer.close()
    server.close()
