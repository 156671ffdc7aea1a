"""Callers that hold a key and mean no good: what they send, what they do not read, and when they leave."""

import asyncio

import pytest
from router_harness import Desired, FakeHost, RunningRouter

from moorage_common.api_keys import ApiKey


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
