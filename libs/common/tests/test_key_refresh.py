"""Keys read past the bus: what the registry says is taken whole, and what is no answer of its changes nothing."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

import pytest

from moorage_common.bus import Bus
from moorage_common.contracts.keys import KeyTables
from moorage_common.contracts.versioned import Versioned
from moorage_common.key_refresh import KeyRefresh
from moorage_common.kv import BucketReader


def entry(version: int, **value: object) -> Versioned:
    return Versioned(epoch=1, version=version, value=value)


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def answering(answers: list[tuple[bytes, bytes]]) -> AsyncIterator[str]:
    """A server that gives each of `answers`, (status, body), once, and the last for ever: its URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        status, body = answers.pop(0) if len(answers) > 1 else answers[0]
        writer.write(b"HTTP/1.1 %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (status, len(body), body))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.fixture
def readers() -> tuple[BucketReader, BucketReader]:
    """Of keys and of limits, whose bus is away."""
    bus = Bus("nats://127.0.0.1:1", "test")
    keys, limits = (BucketReader(bus, name, lambda _key, _entry: None) for name in ("keys", "limits"))
    keys.restore({"kept": entry(1), "changed": entry(1), "newer": entry(9), "gone": entry(1)})
    return keys, limits


async def test_what_the_registry_says_is_taken_once_it_answers_and_nothing_before(
    readers: tuple[BucketReader, BucketReader],
) -> None:
    keys, limits = readers
    held = dict(keys.entries)
    said = KeyTables(
        keys={"kept": entry(1), "changed": entry(2, revoked=True), "newer": entry(3), "new": entry(1)},
        limits={"acme": entry(1)},
    )
    body = said.model_dump_json().encode()
    async with answering([(b"503 Service Unavailable", body), (b"200 OK", b"[]"), (b"200 OK", body)]) as url:
        refresh = KeyRefresh(url, "pepper", keys, limits)
        task = asyncio.create_task(refresh.run())
        try:
            await until(lambda: refresh.failures == 2 or refresh.reads > 0)
            assert (keys.entries, refresh.reads) == (held, 0)
            assert refresh.silence_s() > 1000
            await until(lambda: refresh.reads == 1)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    assert {key: found.version for key, found in keys.entries.items()} == {
        "kept": 1, "changed": 2, "newer": 9, "new": 1,
    }  # fmt: skip
    assert limits.entries == {"acme": entry(1)}
    assert refresh.silence_s() < 10
    assert keys.synced.is_set()


async def test_without_a_registry_to_ask_nothing_is_asked(readers: tuple[BucketReader, BucketReader]) -> None:
    before = [dict(reader.entries) for reader in readers]
    await asyncio.wait_for(KeyRefresh("", "pepper", *readers).run(), 1)
    assert [dict(reader.entries) for reader in readers] == before
