"""Hosts, bus and registry fail; requests do not."""

import asyncio
import contextlib
import json
import signal
import time
from pathlib import Path

import httpx
import pytest
from router_harness import BODY, Desired, FakeHost, RouterProcess, RunningRouter, Seen, serving, until

from moorage_common.contracts import names
from moorage_common.contracts.versioned import Versioned
from moorage_common.testing.servers import Server
from moorage_router.settings import RouterSettings


async def one_version(router: RunningRouter, desired: Desired, *hosts: FakeHost, **fields: object) -> object:
    key = await desired.key()
    await desired.limits(requests_per_s=100_000, burst=100_000, max_concurrent=1000)
    await desired.route({1: 10_000}, **fields)
    for host in hosts:
        await desired.host(host, 1)
    await router.knows(key, 1)
    route = router.app.deps.routes.find("demo", "m")
    await until(lambda: len(route.versions[1].replicas.ready) == len(hosts), "all hosts")
    await until(lambda: router.app.deps.limits.tenants["demo"].limits.max_concurrent == 1000, "the limits")
    return key


async def break_off(_host: FakeHost, _seen: Seen, writer: asyncio.StreamWriter) -> bool:
    writer.transport.abort()
    return True


async def break_half_way(_host: FakeHost, _seen: Seen, writer: asyncio.StreamWriter) -> bool:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{")
    await writer.drain()
    writer.close()
    return True


@pytest.mark.parametrize("fault", [break_off, break_half_way])
async def test_an_answer_lost_on_one_host_is_fetched_from_another(
    router: RunningRouter, desired: Desired, host: FakeHost, other_host: FakeHost, fault: object
) -> None:
    key = await one_version(router, desired, host, other_host)
    host.behaviour = fault
    answers = await asyncio.gather(*(router.infer(key) for _ in range(40)))
    assert {answer.status_code for answer in answers} == {200}
    assert host.seen
    assert len(other_host.seen) == 40


async def test_a_dying_only_host_that_still_takes_connections_is_left_alone_until_its_successor_is_there(
    router: RunningRouter, desired: Desired, host: FakeHost
) -> None:
    key = await one_version(router, desired, host)
    host.behaviour = break_off
    waiting = asyncio.create_task(router.infer(key))
    await until(lambda: host.seen)
    successor = FakeHost(host.host_id, token="token-2", generation="generation-2")
    await successor.start()
    await desired.host(successor, 1)
    assert (await waiting).status_code == 200
    assert len(host.seen) == 1
    await successor.kill()


async def test_killing_one_of_two_hosts_under_load_loses_nothing(
    router: RunningRouter, desired: Desired, host: FakeHost, other_host: FakeHost
) -> None:
    key = await one_version(router, desired, host, other_host)
    statuses: list[int] = []

    async def caller() -> None:
        for _ in range(40):
            answer = await router.infer(key)
            statuses.append(answer.status_code)

    callers = [asyncio.create_task(caller()) for _ in range(8)]
    await until(lambda: len(statuses) > 60)
    await host.kill()
    await asyncio.gather(*callers)
    assert statuses.count(200) == 320


async def test_requests_to_the_only_host_wait_for_its_next_generation(
    router: RunningRouter, desired: Desired, host: FakeHost
) -> None:
    key = await one_version(router, desired, host)
    statuses: list[int] = []

    async def caller() -> None:
        for _ in range(15):
            answer = await router.infer(key)
            statuses.append(answer.status_code)

    callers = [asyncio.create_task(caller()) for _ in range(8)]
    await until(lambda: len(statuses) > 20)
    await host.kill()
    replicas = router.app.deps.routes.find("demo", "m").versions[1].replicas
    await until(lambda: replicas.parked == 8, "8 parked requests")
    again = FakeHost("host-1", token="token-2", generation="generation-2")
    await again.start()
    await desired.host(again, 1)
    await asyncio.gather(*callers)
    assert statuses.count(200) == 120
    await again.kill()


async def test_a_host_that_restarted_on_its_port_is_noticed_by_its_token(
    router: RunningRouter, desired: Desired, host: FakeHost
) -> None:
    key = await one_version(router, desired, host)
    host.token = "token-of-the-next-generation"
    waiting = asyncio.create_task(router.infer(key))
    await until(lambda: host.seen)
    host.generation = "generation-2"
    await desired.host(host, 1)
    assert (await waiting).status_code == 200


async def test_a_version_without_host_waits_and_then_says_when_to_come_back(
    settings: RouterSettings, desired: Desired, host: FakeHost
) -> None:
    settings.park_s = 0.5
    async with serving(settings) as router:
        key = await desired.key()
        await desired.route({1: 10_000})
        await router.knows(key)
        started = time.monotonic()
        refused = await router.infer(key)
        assert (refused.status_code, refused.headers["moorage-error"]) == (503, "no_replica")
        assert int(refused.headers["retry-after"]) >= 1
        assert 0.4 < time.monotonic() - started < 5


async def test_a_code_format_is_not_called_twice(
    router: RunningRouter, desired: Desired, host: FakeHost, other_host: FakeHost
) -> None:
    key = await one_version(router, desired, host, other_host, version_fields={"format": "ray-serve"})
    host.behaviour = other_host.behaviour = break_off
    refused = await router.infer(key)
    assert (refused.status_code, refused.headers["moorage-error"]) == (502, "upstream_failed")
    assert len(host.seen) + len(other_host.seen) == 1
    host.behaviour = other_host.behaviour = None
    await host.kill()
    answers = [await router.infer(key) for _ in range(6)]
    assert {answer.status_code for answer in answers} == {200}


async def test_a_large_body_is_sent_again_only_when_the_connect_failed(
    router: RunningRouter, desired: Desired, host: FakeHost, other_host: FakeHost
) -> None:
    key = await one_version(router, desired, host, other_host)
    large = b"x" * 400_000
    await host.kill()
    answers = [await router.infer(key, content=large) for _ in range(6)]
    assert {answer.status_code for answer in answers} == {200}
    other_host.behaviour = break_off
    assert (await router.infer(key, content=large)).status_code == 502


async def test_a_host_that_stalls_is_given_up_at_the_deadline(
    router: RunningRouter, desired: Desired, host: FakeHost
) -> None:
    async def stall(_host: FakeHost, _seen: Seen, _writer: asyncio.StreamWriter) -> bool:
        await asyncio.sleep(3600)
        return True

    key = await one_version(router, desired, host, deadline_ms=400)
    host.behaviour = stall
    started = time.monotonic()
    refused = await router.infer(key)
    assert (refused.status_code, refused.headers["moorage-error"]) == (504, "deadline_exceeded")
    assert time.monotonic() - started < 3


async def test_a_revoked_key_is_refused_and_an_older_record_never_brings_it_back(
    router: RunningRouter, desired: Desired, host: FakeHost
) -> None:
    key = await one_version(router, desired, host)
    assert (await router.infer(key)).status_code == 200
    old = desired.entries[names.BUCKET_KEYS][key.kid]
    await desired.record(key, tenant="demo", scopes=["infer:*"], revoked=True)
    table = router.app.deps.keys
    await until(lambda: table._records[key.kid].revoked, "the revocation")
    started = time.monotonic()
    refused = await router.infer(key)
    assert (refused.status_code, refused.headers["moorage-error"]) == (401, "key_revoked")
    assert time.monotonic() - started < 1
    reader = router.app.deps.tables.readers[names.BUCKET_KEYS]
    assert not reader.accept(key.kid, old)
    await desired.put(names.BUCKET_KEYS, key.kid, None)
    await until(lambda: key.kid not in table._records, "the tombstone")
    assert not reader.accept(key.kid, old)
    assert (await router.infer(key)).status_code == 401


async def test_a_suspended_tenant_is_refused(router: RunningRouter, desired: Desired, host: FakeHost) -> None:
    key = await one_version(router, desired, host)
    await desired.limits(status="suspended")
    await until(lambda: router.app.deps.limits.tenants["demo"].limits.status == "suspended")
    refused = await router.infer(key)
    assert (refused.status_code, refused.headers["moorage-error"]) == (403, "tenant_suspended")


async def test_it_goes_on_while_nats_is_killed_and_hears_the_next_change(
    router: RunningRouter, desired: Desired, host: FakeHost, own_nats: Server
) -> None:
    key = await one_version(router, desired, host)
    own_nats.kill()
    for _ in range(10):
        assert (await router.infer(key)).status_code == 200
    own_nats.start()
    another = await desired.key()

    await until(lambda: another.kid in router.app.deps.keys._records, "the key made after the outage", 30)


async def test_a_router_serves_from_its_snapshot_with_bus_and_redis_away(
    settings: RouterSettings, desired: Desired, host: FakeHost, tmp_path: Path
) -> None:
    key = await desired.key()
    await desired.route({1: 10_000})
    await desired.host(host, 1)
    snapshot = settings.state_dir / f"{settings.router_name}.snapshot.json"
    async with httpx.AsyncClient(timeout=30) as client:
        first = RouterProcess(settings)
        try:
            await first.answers(key, client)
            await until(lambda: snapshot.exists() and b'"host-1"' in snapshot.read_bytes(), "the snapshot")
        finally:
            first.end(signal.SIGKILL)
        second = RouterProcess(
            settings, MOORAGE_NATS_URL="nats://127.0.0.1:1", MOORAGE_REDIS_URL="redis://127.0.0.1:1/0"
        )
        try:
            await second.answers(key, client)
            assert [await second.infer(key, client) for _ in range(20)] == [200] * 20
            held = asyncio.create_task(_slow_request(host, second, key, client))
            await until(lambda: host.behaviour is not None and len(host.seen) and host.seen[-1].body == b"slow")
            second.process.terminate()
            assert await held == 200
            assert second.process.wait(15) == 0
        finally:
            second.process.kill()
    assert key.secret not in second.log.read_text()


async def _slow_request(host: FakeHost, router: RouterProcess, key: object, client: httpx.AsyncClient) -> int:
    async def slow(_host: FakeHost, seen: Seen, _writer: asyncio.StreamWriter) -> bool:
        if seen.body == b"slow":
            await asyncio.sleep(0.5)
        return False

    host.behaviour = slow
    answer = await client.post(
        f"http://127.0.0.1:{router.port}/v2/models/m/infer",
        content=b"slow",
        headers={"authorization": f"Bearer {key.text}"},
    )
    return answer.status_code


def test_an_unreadable_snapshot_is_ignored(tmp_path: Path) -> None:
    from moorage_router import snapshot

    path = tmp_path / "s.json"
    assert snapshot.read(path) == {}
    entries = {"keys": {"k": Versioned(epoch=1, version=2, value={"a": 1})}}
    snapshot.write(path, entries)
    assert snapshot.read(path) == entries
    path.write_text(json.dumps({"keys": {"k": {"epoch": "x"}}}))
    assert snapshot.read(path) == {}
    path.write_bytes(b"\x00")
    assert snapshot.read(path) == {}


@pytest.mark.parametrize("size", [len(BODY), 600_000], ids=["small", "streamed"])
async def test_a_caller_that_goes_away_ends_its_hosts_work_and_is_no_longer_in_flight(
    router: RunningRouter, desired: Desired, host: FakeHost, size: int
) -> None:
    key = await one_version(router, desired, host)
    left = asyncio.Event()

    async def work_until_left(_host: FakeHost, _seen: Seen, writer: asyncio.StreamWriter) -> bool:
        with contextlib.suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(b"HTTP/1.1 102 Processing\r\n\r\n")
                await writer.drain()
                await asyncio.sleep(0.01)
        left.set()
        return True

    host.behaviour = work_until_left
    _, writer = await asyncio.open_connection("127.0.0.1", router.port)
    head = (
        f"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key.text}\r\nContent-Length: {size}\r\n"
    )
    writer.write(f"{head}\r\n".encode() + BODY + bytes(size - len(BODY)))
    await until(lambda: host.seen, "the host's call")
    writer.transport.abort()
    await asyncio.wait_for(left.wait(), 10)
    replicas = router.app.deps.routes.find("demo", "m").versions[1].replicas
    await until(lambda: replicas.in_flight == 0, "the end of the request")
    assert router.app.deps.limits.tenants["demo"].in_flight == 0
    assert router.app.deps.routes.find("demo", "m").versions[1].series.by_code == {499: 1}


async def test_sigterm_loses_no_request(settings: RouterSettings, desired: Desired, host: FakeHost) -> None:
    key = await desired.key()
    await desired.limits(requests_per_s=100_000, burst=100_000, max_concurrent=1000)
    await desired.route({1: 10_000})
    await desired.host(host, 1)
    process = RouterProcess(settings)
    statuses: list[int] = []
    closing: list[bool] = []

    async def caller() -> None:
        """Keeps its connection until it is told that an answer is the last."""
        async with httpx.AsyncClient(timeout=30) as client:
            while True:
                answer = await client.post(
                    f"http://127.0.0.1:{process.port}/v2/models/m/infer", content=BODY,
                    headers={"authorization": f"Bearer {key.text}"},
                )  # fmt: skip
                statuses.append(answer.status_code)
                if answer.headers.get("connection") == "close":
                    closing.append(True)
                    return

    try:
        async with httpx.AsyncClient() as client:
            await process.answers(key, client)
        callers = [asyncio.create_task(caller()) for _ in range(16)]
        await until(lambda: len(statuses) > 100, "some answers")
        process.process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(asyncio.gather(*callers), 20)
        await until(lambda: process.process.poll() is not None, "the end")
        assert process.process.returncode == 0
        assert set(statuses) == {200}
        assert len(closing) == 16
    finally:
        process.process.kill()
        process.process.wait()
