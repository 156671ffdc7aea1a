"""Callers that hold a key and mean no good: what they send, what they do not read, and when they leave."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from router_harness import BODY, Desired, FakeHost, RunningRouter, Seen, until

from moorage_common.api_keys import ApiKey
from moorage_router.pool import Pool


async def one_version(router: RunningRouter, desired: Desired, host: FakeHost, **fields: object) -> ApiKey:
    key = await desired.key()
    await desired.route({1: 10_000}, **fields)
    await desired.host(host, 1)
    await router.knows(key, 1)
    return key


def head(key: ApiKey, *fields: str) -> bytes:
    lines = ["POST /v2/models/m/infer HTTP/1.1", "Host: h", f"Authorization: Bearer {key.text}", *fields]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()


async def ended(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(10):
        return await reader.read()


@pytest.mark.parametrize("rest", [b"zz\r\n", b"1;" + b"x" * 100_000], ids=["no chunk", "an endless extension"])
async def test_a_long_body_that_breaks_off_is_not_a_fault_of_ours(
    router: RunningRouter, desired: Desired, host: FakeHost, rest: bytes
) -> None:
    key = await one_version(router, desired, host)
    reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
    writer.write(head(key, "Transfer-Encoding: chunked") + b"50000\r\n" + bytes(0x50000) + b"\r\n" + rest)
    answer = await ended(reader)
    assert answer[9:12] in {b"400", b"431"}
    assert b'\r\n\r\n{"error":"' in answer
    writer.close()
    assert (await router.infer(key)).status_code == 200
    assert router.app.deps is not None
    assert not any(replicas.in_flight for replicas in router.app.deps.hosts.all())


LONG = 4 * 1024 * 1024


async def long_answer(_host: FakeHost, _seen: Seen, writer: asyncio.StreamWriter) -> bool:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n" % LONG)
    for _ in range(LONG // 65536):
        writer.write(bytes(65536))
        await writer.drain()
    return True


def pools(router: RunningRouter) -> set[Pool]:
    assert router.app.deps is not None
    return {host.pool for replicas in router.app.deps.hosts.all() for host in replicas.ready}


def at_rest(router: RunningRouter) -> bool:
    """Nothing is in flight and every connection to a host is free."""
    deps = router.app.deps
    assert deps is not None
    return (
        not any(replicas.in_flight or replicas.parked for replicas in deps.hosts.all())
        and not any(tenant.in_flight for tenant in deps.limits.tenants.values())
        and all(len(pool._idle) == len(pool._all) and not pool._waiting and not pool._opening for pool in pools(router))
    )


async def leave_before_the_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: ApiKey) -> None:
    writer.write(head(key, f"Content-Length: {len(BODY)}") + BODY)
    await asyncio.sleep(0.02)


async def leave_within_the_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: ApiKey) -> None:
    writer.write(head(key, f"Content-Length: {len(BODY)}") + BODY)
    await reader.readuntil(b"\r\n\r\n")


async def leave_within_the_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: ApiKey) -> None:
    writer.write(head(key, f"Content-Length: {LONG}") + bytes(LONG // 2))
    await writer.drain()


@pytest.mark.parametrize("leave", [leave_before_the_answer, leave_within_the_answer, leave_within_the_body])
async def test_callers_that_leave_take_nothing_with_them(
    router: RunningRouter,
    desired: Desired,
    host: FakeHost,
    leave: Callable[[asyncio.StreamReader, asyncio.StreamWriter, ApiKey], Awaitable[None]],
) -> None:
    host.behaviour = long_answer
    key = await one_version(router, desired, host)

    async def caller() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
        async with asyncio.timeout(10):
            await leave(reader, writer, key)
        writer.transport.abort()

    await asyncio.gather(*(caller() for _ in range(40)))
    await until(lambda: at_rest(router), "rest")
    host.behaviour = None
    assert (await router.infer(key)).status_code == 200


async def test_a_caller_that_does_not_read_its_answer_holds_no_host_beyond_the_deadline(
    router: RunningRouter, desired: Desired, host: FakeHost
) -> None:
    host.behaviour = long_answer
    key = await one_version(router, desired, host, deadline_ms=1000)
    _reader, writer = await asyncio.open_connection("127.0.0.1", router.port, limit=1024)
    writer.transport.pause_reading()
    writer.write(head(key, f"Content-Length: {len(BODY)}") + BODY)
    (pool,) = pools(router)
    await until(lambda: any(connection.busy for connection in pool._all), "the answer")
    await until(lambda: not pool._all, "the end")
    writer.transport.abort()
    await until(lambda: at_rest(router), "rest")


async def test_one_connection_may_bear_requests_of_several_keys_and_each_is_judged_by_its_own(
    router: RunningRouter, desired: Desired, host: FakeHost
) -> None:
    """As a proxy sends them: equal but for the key, and of equal length."""
    key = await one_version(router, desired, host)
    stranger, narrow = await desired.key(tenant="other"), await desired.key(scopes=("infer:another",))
    await until(lambda: router.app.deps and narrow.kid in router.app.deps.keys._records, "the keys")
    reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
    for _ in range(3):
        for by, status in ((key, b"200"), (stranger, b"404"), (key, b"200"), (narrow, b"403")):
            writer.write(head(by, f"Content-Length: {len(BODY)}") + BODY)
            lines = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(lines.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))
            assert lines[9:12] == status
    await desired.record(key, tenant="demo", scopes=["infer:another"])
    assert router.app.deps is not None
    await until(lambda: router.app.deps.keys._records[key.kid].scopes == ["infer:another"], "the change")
    writer.write(head(key, f"Content-Length: {len(BODY)}") + BODY)
    assert (await reader.readuntil(b"\r\n\r\n"))[9:12] == b"403"
    writer.close()
