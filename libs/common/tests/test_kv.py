"""Key-value state: one writer, ordered by (epoch, version), and readers that outlive the server and the bucket."""

import asyncio
import contextlib
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import nats.js.errors
import pytest
from nats.js.kv import KeyValue

from moorage_common.bus import Bus
from moorage_common.contracts.versioned import HEARTBEAT_PREFIX, Heartbeat, Versioned
from moorage_common.kv import BucketReader, BucketWriter
from moorage_common.testing.servers import Server, free_port, nats_server

DEADLINE_S = 20.0


def entry(version: int, value: str | None = "", epoch: int = 1) -> Versioned:
    return Versioned(epoch=epoch, version=version, value=None if value is None else {"is": value or str(version)})


async def eventually(condition: Callable[[], bool], timeout_s: float = DEADLINE_S) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - what is awaited happens in another process
            await asyncio.sleep(0.02)


@dataclass
class Rig:
    """One bucket with a writer (`rows` is its database) and a reader, each on a connection of its own."""

    url: str
    bucket: str
    rows: dict[str, Versioned] = field(default_factory=dict)
    seen: list[tuple[str, Versioned]] = field(default_factory=list)
    stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    async def bus(self) -> Bus:
        bus = Bus(self.url, "test")
        await bus.start()
        self.stack.push_async_callback(bus.close)
        return bus

    async def source(self) -> Mapping[str, Versioned]:
        return dict(self.rows)

    async def run(self, what: BucketWriter | BucketReader) -> asyncio.Task[None]:
        task = asyncio.create_task(what.run())

        async def end() -> None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

        self.stack.push_async_callback(end)
        return task

    async def writer(self, *, prefix: str = "", run: bool = True) -> BucketWriter:
        writer = BucketWriter(
            await self.bus(), self.bucket, writer=prefix.rstrip(".") or "registry", source=self.source, prefix=prefix
        )
        if run:
            await self.run(writer)
        return writer

    async def reader(self) -> BucketReader:
        reader = BucketReader(await self.bus(), self.bucket, on_change=lambda key, e: self.seen.append((key, e)))
        await self.run(reader)
        return reader

    async def change(self, writer: BucketWriter, key: str, row: Versioned) -> bool:
        self.rows[key] = row
        return await writer.put(key, row)


@pytest.fixture
async def rig(nats_url: str) -> AsyncIterator[Rig]:
    rig = Rig(nats_url, f"b{uuid.uuid4().hex}")
    async with rig.stack:
        yield rig


@pytest.fixture
async def own_rig(own_nats: Server) -> AsyncIterator[Rig]:
    rig = Rig(own_nats.url, "state")
    async with rig.stack:
        yield rig


async def filled(rig: Rig, count: int = 3) -> tuple[BucketWriter, BucketReader]:
    rig.rows = {f"k{n}": entry(5) for n in range(count)}
    writer, reader = await rig.writer(), await rig.reader()
    await eventually(lambda: reader.entries == rig.rows and reader.synced.is_set())
    return writer, reader


async def test_a_change_reaches_the_reader_and_an_older_one_never_does(rig: Rig) -> None:
    writer, reader = await filled(rig)
    assert await rig.change(writer, "k0", entry(6))
    await eventually(lambda: reader.entries["k0"] == entry(6))
    assert await writer.put("k0", entry(4))
    kv = await writer.bus.bucket(rig.bucket)
    stored = await kv.get("k0")
    assert Versioned.model_validate_json(stored.value or b"") == entry(6), "the bucket was overwritten with older"
    await kv.put("k0", entry(1).model_dump_json().encode())
    await rig.change(writer, "k1", entry(7))
    await eventually(lambda: reader.entries["k1"] == entry(7))
    assert reader.entries["k0"] == entry(6), "a reader believed the bucket's revision over the writer's order"


async def test_a_higher_epoch_wins_over_any_version(rig: Rig) -> None:
    writer, reader = await filled(rig)
    await rig.change(writer, "k0", entry(1, epoch=2))
    await eventually(lambda: reader.entries["k0"].order == (2, 1))
    await writer.put("k0", entry(99, epoch=1))
    assert reader.entries["k0"].order == (2, 1)


async def test_a_reader_goes_on_after_the_server_is_killed_and_restarted(own_rig: Rig, own_nats: Server) -> None:
    writer, reader = await filled(own_rig)
    own_nats.kill()
    own_rig.seen.clear()
    assert not await own_rig.change(writer, "k1", entry(8)), "a put claimed success while the server was dead"
    own_nats.start()
    await eventually(lambda: reader.entries["k1"] == entry(8))
    assert [key for key, _ in own_rig.seen] == ["k1"], "a restart was seen as changes of what did not change"


async def test_a_put_while_the_bus_is_away_returns_at_once(own_rig: Rig, own_nats: Server) -> None:
    writer, _reader = await filled(own_rig)
    own_nats.kill()
    await eventually(lambda: not writer.bus.connected)
    begun = time.monotonic()
    assert not await writer.put("k0", entry(9))
    assert time.monotonic() - begun < 0.5


async def test_a_deleted_bucket_is_rebuilt_and_the_reader_holds_on_meanwhile(rig: Rig) -> None:
    writer, reader = await filled(rig)
    rig.seen.clear()
    await writer.bus.jetstream().delete_key_value(rig.bucket)
    rig.rows["k2"] = entry(9)
    await eventually(lambda: reader.entries["k2"] == entry(9))
    assert await rig.change(writer, "k0", entry(10))
    await eventually(lambda: reader.entries == rig.rows)
    assert {key for key, _ in rig.seen} == {"k2", "k0"}


async def keys_of(kv: KeyValue) -> list[str]:
    """The bucket's keys; the client may come back without any from a server that has just restarted."""
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(nats.js.errors.NoKeysError):
                return await kv.keys()


async def test_a_wiped_store_is_rebuilt_and_the_reader_holds_on_meanwhile(own_rig: Rig, own_nats: Server) -> None:
    writer, reader = await filled(own_rig, count=200)
    own_rig.seen.clear()
    own_nats.kill()
    shutil.rmtree(own_nats.directory / "jetstream")
    own_nats.start()
    assert len(reader.entries) == 200
    own_rig.rows["k7"] = entry(11)
    await eventually(lambda: reader.entries["k7"] == entry(11))
    assert {key for key, _ in own_rig.seen} == {"k7"}
    kv = await writer.bus.bucket("state")
    assert {key for key in await keys_of(kv) if not key.startswith(HEARTBEAT_PREFIX)} == set(own_rig.rows)


async def test_what_vanished_while_the_bucket_was_away_is_reported_as_a_tombstone(
    own_rig: Rig, own_nats: Server
) -> None:
    _writer, reader = await filled(own_rig)
    own_nats.kill()
    shutil.rmtree(own_nats.directory / "jetstream")
    del own_rig.rows["k1"]
    own_rig.seen.clear()
    own_nats.start()
    await eventually(lambda: "k1" not in reader.entries)
    assert own_rig.seen == [("k1", entry(5, None))]
    assert reader.entries == own_rig.rows


async def refilled_by_another(rig: Rig, reader: BucketReader, beat: Heartbeat | None) -> None:
    """Replace the bucket by one with a single key `new` and `beat`, and wait until the reader has found it."""
    bus = await rig.bus()
    await bus.wait()
    await bus.jetstream().delete_key_value(rig.bucket)
    kv = await bus.bucket(rig.bucket)
    if beat is not None:
        await kv.put(f"{HEARTBEAT_PREFIX}registry", beat.model_dump_json().encode())
    await kv.put("new", entry(1).model_dump_json().encode())
    await eventually(lambda: "new" in reader.entries)


async def test_a_bucket_without_its_writers_heartbeat_takes_nothing_from_a_reader(rig: Rig) -> None:
    writer, reader = await seeded(rig)
    await refilled_by_another(rig, reader, None)
    assert set(reader.entries) == {"k0", "k1", "k2", "new"}
    rig.rows = {"k0": entry(5), "k2": entry(6)}
    await rig.run(writer)
    await eventually(lambda: reader.entries == rig.rows)


async def test_a_heartbeat_meant_for_the_bucket_before_takes_nothing_from_a_reader(rig: Rig) -> None:
    _writer, reader = await seeded(rig)
    late = Heartbeat(writer="registry", prefix="", epoch=1, at=time.time(), created="2020-01-01 00:00:00")
    await refilled_by_another(rig, reader, late)
    assert set(reader.entries) == {"k0", "k1", "k2", "new"}


async def seeded(rig: Rig) -> tuple[BucketWriter, BucketReader]:
    """A reader that holds three keys, of a writer that no longer runs."""
    rig.rows = {f"k{n}": entry(5) for n in range(3)}
    writer = await rig.writer(run=False)
    task = await rig.run(writer)
    reader = await rig.reader()
    await eventually(lambda: reader.entries == rig.rows and reader.synced.is_set())
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return writer, reader


async def test_a_tombstone_is_told_and_held_until_the_writer_drops_it(rig: Rig) -> None:
    writer, reader = await filled(rig)
    rig.seen.clear()
    await rig.change(writer, "k0", entry(6, None))
    await eventually(lambda: reader.entries["k0"].value is None)
    assert rig.seen == [("k0", entry(6, None))]
    await writer.put("k0", entry(5))
    assert reader.entries["k0"].value is None, "an older value came back over a tombstone"
    del rig.rows["k0"]
    kv = await writer.bus.bucket(rig.bucket)
    await kv.purge("k0")
    await eventually(lambda: "k0" not in reader.entries)
    assert len(rig.seen) == 1, "dropping a tombstone is no news"


async def test_writers_of_two_prefixes_leave_each_others_keys_alone(rig: Rig) -> None:
    west, east = Rig(rig.url, rig.bucket), Rig(rig.url, rig.bucket)
    async with west.stack, east.stack:
        west.rows, east.rows = {"west.a": entry(1)}, {"east.a": entry(1)}
        await west.writer(prefix="west.")
        await east.writer(prefix="east.")
        reader = await rig.reader()
        await eventually(lambda: set(reader.entries) == {"west.a", "east.a"})
        bus = await rig.bus()
        await bus.wait()
        await bus.jetstream().delete_key_value(rig.bucket)
        west.rows = {"west.b": entry(2)}
        await eventually(lambda: set(reader.entries) == {"west.b", "east.a"})
        assert reader.entries == west.rows | east.rows


async def test_a_source_that_fails_is_asked_again_and_costs_the_readers_nothing(rig: Rig) -> None:
    writer, reader = await filled(rig)

    async def broken() -> Mapping[str, Versioned]:
        raise LookupError("the database is away")

    writer.source = broken
    await writer.bus.jetstream().delete_key_value(rig.bucket)
    kept: list[int] = []
    while writer.source is broken:
        kept.append(len(reader.entries))
        await asyncio.sleep(0.5)
        if len(kept) > 8:
            writer.source = rig.source
    assert set(kept) == {3}
    assert await rig.change(writer, "k0", entry(6))
    await eventually(lambda: reader.entries["k0"] == entry(6))


async def test_an_unreadable_entry_is_ignored_and_mended_by_the_writer(rig: Rig) -> None:
    writer, reader = await filled(rig)
    kv = await writer.bus.bucket(rig.bucket)
    await kv.put("k0", b"not json")
    assert await rig.change(writer, "k0", entry(6))
    await eventually(lambda: reader.entries["k0"] == entry(6))


async def test_everything_starts_before_the_server_does(tmp_path: Path) -> None:
    port = free_port()
    rig = Rig(f"nats://127.0.0.1:{port}", "state")
    async with rig.stack:
        rig.rows = {"k": entry(1)}
        await rig.writer()
        reader = await rig.reader()
        reader.restore({"from-snapshot": entry(3)})
        with nats_server(tmp_path / "nats", port):
            await eventually(lambda: reader.entries == {"k": entry(1)})
            assert ("k", entry(1)) in rig.seen
            await rig.stack.aclose()


async def test_an_entry_too_large_for_the_bus_stops_neither_the_heartbeat_nor_the_others(rig: Rig) -> None:
    bus = await rig.bus()
    await bus.wait()
    beyond, at_the_edge = bus.client.max_payload + 1, bus.client.max_payload - 100
    rig.rows = {"huge": entry(5, "x" * beyond), "edge": entry(5, "x" * at_the_edge), "k": entry(5)}
    writer, reader = await rig.writer(), await rig.reader()
    await eventually(lambda: set(reader.entries) == {"k"} and reader.synced.is_set())
    assert await rig.change(writer, "huge", entry(6, "x" * beyond)), "a put that can never succeed asks to be repeated"
    await rig.change(writer, "k", entry(6))
    await eventually(lambda: reader.entries["k"] == entry(6) and reader.silence_s() < 1.0)
    assert set(reader.entries) == {"k"}
