"""Metering: every answered request reaches the ledger once, whatever dies."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from router_harness import Desired, FakeHost, RouterProcess, RunningRouter, until

from moorage_common.bus import Bus
from moorage_common.contracts.load import LoadReport
from moorage_common.contracts.names import STREAM_USAGE, load_subject
from moorage_common.contracts.usage import UsageChunk
from moorage_common.testing.servers import Server
from moorage_router.settings import RouterSettings
from moorage_router.usage import Outcome, UsageMeter
from moorage_router.usage_log import MOST_ROWS, UsageLog, sums_in

ROW = [1, 0, 2, 3, 4, 5]


def key(n: int) -> tuple[str, str, int, str, int]:
    return ("demo", f"m{n}", 1, "kid", 3600)


async def ledger(bus: Bus) -> dict[str, UsageChunk]:
    """Every chunk on the stream, by id, as a ledger takes them: the first of an id counts."""
    chunks: dict[str, UsageChunk] = {}
    info = await bus.jetstream().stream_info(STREAM_USAGE)
    for sequence in range(1, info.state.messages + 1):
        message = await bus.jetstream().get_msg(STREAM_USAGE, sequence)
        chunk = UsageChunk.model_validate_json(message.data or b"")
        chunks.setdefault(chunk.chunk_id, chunk)
    return chunks


def requests(chunks: dict[str, UsageChunk]) -> int:
    return sum(row.requests for chunk in chunks.values() for row in chunk.rows)


async def test_the_ledger_gets_each_answered_request_once_with_its_sums(
    router: RunningRouter, desired: Desired, host: FakeHost
) -> None:
    api_key = await desired.key()
    await desired.route({1: 10_000})
    await desired.host(host, 1)
    await router.knows(api_key, 1)
    answers = await router.burst(api_key, 100, 4)
    host.behaviour = bad_request
    assert (await router.infer(api_key)).status_code == 400
    chunks = await ledger(desired.bus)
    async with asyncio.timeout(20):
        while requests(chunks) < 100 or not any(row.errors for chunk in chunks.values() for row in chunk.rows):
            await asyncio.sleep(0.05)
            chunks = await ledger(desired.bus)
    rows = [row for chunk in chunks.values() for row in chunk.rows]
    assert {(row.tenant, row.model, row.version, row.kid, row.hour % 3600) for row in rows} == {
        ("demo", "m", 1, api_key.kid, 0)
    }
    assert sum(row.requests for row in rows) == 100
    assert sum(row.errors for row in rows) == 1
    assert sum(row.rows for row in rows) == 100
    assert sum(row.busy_us for row in rows) == 100 * 120
    assert sum(row.bytes_out for row in rows) == sum(len(body) for _, body in answers)
    assert sorted(chunk.n for chunk in chunks.values()) == list(range(len(chunks)))


async def bad_request(_host: FakeHost, _seen: object, writer: asyncio.StreamWriter) -> bool:
    writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 15\r\n\r\n" + b'{"error":"bad"}')
    return True


async def test_after_kill_9_the_next_boot_ships_what_was_logged_and_nothing_twice(
    settings: RouterSettings, desired: Desired, host: FakeHost, own_nats: Server
) -> None:
    api_key = await desired.key()
    await desired.route({1: 10_000})
    await desired.host(host, 1)
    log_dir = settings.state_dir / "usage"

    def logged() -> int | None:
        """Requests in the log; None when the router ended a file between the listing and the reading."""
        try:
            return sum(row[0] for segment in log_dir.glob("*.wal") for row in sums_in(segment).values())
        except FileNotFoundError:
            return None

    async with httpx.AsyncClient(timeout=30) as client:
        first = RouterProcess(settings)
        try:
            await first.answers(api_key, client)
            assert [await first.infer(api_key, client) for _ in range(10)] == [200] * 10
            async with asyncio.timeout(20):
                while requests(await ledger(desired.bus)) < 11:  # noqa: ASYNC110 - polls the stream
                    await asyncio.sleep(0.05)
            os.kill(own_nats.pid, signal.SIGSTOP)
            assert [await first.infer(api_key, client) for _ in range(25)] == [200] * 25
            await until(lambda: logged() == 25, "the log")
        finally:
            os.kill(own_nats.pid, signal.SIGCONT)
            first.end(signal.SIGKILL)
        second = RouterProcess(settings)
        try:
            await second.answers(api_key, client)
            await until(lambda: logged() == 0, "shipping", 30)
        finally:
            second.end(signal.SIGTERM)
    chunks = await ledger(desired.bus)
    assert len({chunk.boot for chunk in chunks.values()}) == 2
    assert requests(chunks) == 11 + 25 + 1


async def test_load_reports_name_the_versions_with_traffic(
    router: RunningRouter, desired: Desired, host: FakeHost, settings: RouterSettings
) -> None:
    reports: list[LoadReport] = []
    subscription = await desired.bus.client.subscribe(load_subject(settings.router_name))
    api_key = await desired.key()
    await desired.route({1: 10_000})
    await desired.host(host, 1)
    await router.knows(api_key, 1)
    await router.burst(api_key, 12, 3)
    async with asyncio.timeout(10):
        while sum(load.requests for report in reports for load in report.loads) < 12:
            message = await subscription.next_msg(timeout=5)
            reports.append(LoadReport.model_validate_json(message.data))
    assert sum(load.requests for report in reports for load in report.loads) == 12
    assert {(load.tenant, load.model, load.version) for report in reports for load in report.loads} == {
        ("demo", "m", 1)
    }


@pytest.fixture
def log(tmp_path: Path) -> Iterator[UsageLog]:
    log = UsageLog(tmp_path, "r")
    yield log
    log.close()


def test_a_torn_line_is_dropped_and_what_was_synced_before_it_stays(log: UsageLog, tmp_path: Path) -> None:
    log.append({key(1): ROW})
    log.append({key(1): ROW, key(2): ROW})
    segment = log.seal()
    assert segment is not None
    segment.path.write_bytes(segment.path.read_bytes() + b'00000000 [["demo",')
    log.close()
    again = UsageLog(tmp_path, "other-name")
    assert again.sealed()[0].sums == {key(1): [2, 0, 4, 6, 8, 10], key(2): ROW}
    assert again.sealed()[0].chunk() == segment.chunk()
    again.close()


def test_routers_that_share_the_directory_ship_their_own_segments_and_those_of_ended_ones(
    log: UsageLog, tmp_path: Path
) -> None:
    log.append({key(1): ROW})
    log.seal()
    log.append({key(2): ROW})
    other = UsageLog(tmp_path, "other")
    assert other.sealed() == []
    other.close()
    log.close()
    third = UsageLog(tmp_path, "third")
    assert [segment.sums for segment in third.sealed()] == [{key(1): ROW}, {key(2): ROW}]
    assert {segment.router for segment in third.sealed()} == {"r"}
    assert UsageLog(tmp_path, "fourth").sealed() == []
    for segment in third.sealed():
        third.shipped(segment)
    assert list(tmp_path.glob("*.wal")) == []


def test_the_disk_holds_sums_however_long_the_bus_is_away(log: UsageLog, tmp_path: Path) -> None:
    for _ in range(1500):
        log.append({key(n): ROW for n in range(40)})
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 1_200_000
    assert UsageLog(tmp_path, "beside").sealed() == []
    log.close()
    again = UsageLog(tmp_path, "r")
    assert again.sealed()[0].sums[key(7)][0] == 1500
    again.close()


def test_a_chunk_fits_a_message(log: UsageLog) -> None:
    for start in range(0, 3 * MOST_ROWS, 500):
        log.append({key(n): ROW for n in range(start, start + 500)})
    log.seal()
    chunks = [segment.chunk() for segment in log.sealed()]
    assert sum(len(chunk.rows) for chunk in chunks) == 3 * MOST_ROWS
    assert [chunk.n for chunk in chunks] == [0, 1, 2]
    assert all(len(chunk.model_dump_json()) < 1_000_000 for chunk in chunks)


def test_sums_that_could_not_be_written_are_counted_later() -> None:
    meter = UsageMeter()
    meter.add("demo", "m", 1, "kid", Outcome(status=200, rows=2))
    sums = meter.drain()
    meter.add("demo", "m", 1, "kid", Outcome(status=503, rows=9))
    meter.put_back(sums)
    (row,) = meter.drain().values()
    assert row == [1, 1, 2, 0, 0, 0]
