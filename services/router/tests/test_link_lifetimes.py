"""What a link goes through: greetings that never come, hosts that do not read or vanish, the end of a generation."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator

import httpx
import pytest
from framed_host import FramedHost, known, never, one_version, plain, refused, send
from router_harness import Desired, RunningRouter, until

from moorage_common.contracts.host_frames import Call
from moorage_router.links import Link, NotSpoken
from moorage_router.upstream import AnswerLost, ConnectFailed, Overdue

TRACE = b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"
HEAD = b"POST /v2/models/m/versions/1/infer HTTP/1.1\r\n"


@pytest.fixture
async def link(framed: FramedHost) -> AsyncIterator[Link]:
    """A link to `framed` that is swept as a router sweeps."""
    found = Link(f"127.0.0.1:{framed.port}", b"host: h\r\nmoorage-host-token: token-1\r\n")

    async def sweeping() -> None:
        while True:
            found.sweep(time.monotonic())
            await asyncio.sleep(0.02)

    task = asyncio.create_task(sweeping())
    yield found
    task.cancel()
    found.close()
    await asyncio.gather(task, return_exceptions=True)


async def call(link: Link, body: bytes = b"{}", *, within_s: float = 10.0) -> bytes:
    return (await link.call(HEAD, TRACE, body, time.monotonic() + within_s)).body


def calling(link: Link, body: bytes = b"{}", *, within_s: float = 10.0) -> "asyncio.Task[bytes]":
    return asyncio.create_task(call(link, body, within_s=within_s))


async def paused(router: RunningRouter, framed: FramedHost, key: object) -> list["asyncio.Task[httpx.Response]"]:
    """Calls to a host that has ceased to read, until its link takes no more."""
    assert (await router.infer(key)).status_code == 200
    framed.pause()
    (host,) = known(router)
    wire = host.link._wire
    calls: list[asyncio.Task[httpx.Response]] = []
    while wire._writable is None:
        calls.append(asyncio.create_task(router.infer(key, content=b"x" * 250_000)))
        await asyncio.sleep(0.005)
        assert len(calls) < 70
    return calls


async def test_a_host_that_does_not_read_makes_calls_wait_and_not_the_router_buffer(
    router: RunningRouter, desired: Desired, framed: FramedHost
) -> None:
    key = await one_version(router, desired, framed, deadline_ms=20_000)
    calls = await paused(router, framed, key)
    (host,) = known(router)
    calls += [asyncio.create_task(router.infer(key, content=b"x" * 250_000)) for _ in range(40)]
    replicas = router.app.deps.routes.find("demo", "m").versions[1].replicas
    await until(lambda: replicas.in_flight == len(calls), "the calls")
    assert host.link._wire._transport.get_write_buffer_size() < 10 * 250_000
    framed.resume()
    answers = await asyncio.gather(*calls)
    assert {answer.status_code for answer in answers} == {200}
    assert framed.greeted == 1


async def test_a_call_that_waits_for_a_host_to_read_is_504_at_its_deadline(
    router: RunningRouter, desired: Desired, framed: FramedHost
) -> None:
    key = await one_version(router, desired, framed, deadline_ms=4000)
    calls = await paused(router, framed, key)
    began = time.monotonic()
    assert refused(await router.infer(key)) == (504, "deadline_exceeded")
    assert time.monotonic() - began < 8
    assert {refused(answer) for answer in await asyncio.gather(*calls)} == {(504, "deadline_exceeded")}


async def test_a_caller_that_goes_away_while_its_host_does_not_read_takes_no_other_along(
    router: RunningRouter, desired: Desired, framed: FramedHost
) -> None:
    key = await one_version(router, desired, framed, deadline_ms=20_000)
    calls = await paused(router, framed, key)
    replicas = router.app.deps.routes.find("demo", "m").versions[1].replicas
    await until(lambda: replicas.in_flight == len(calls), "the calls")
    leaving = asyncio.create_task(router.infer(key))
    staying = [asyncio.create_task(router.infer(key)) for _ in range(5)]
    await until(lambda: replicas.in_flight == len(calls) + 6, "the calls that wait")
    leaving.cancel()
    await until(lambda: replicas.in_flight == len(calls) + 5, "the end of one")
    late = asyncio.create_task(router.infer(key))
    await until(lambda: replicas.in_flight == len(calls) + 6, "another call")
    framed.resume()
    answers = await asyncio.gather(*calls, *staying, late)
    assert {answer.status_code for answer in answers} == {200}


async def test_callers_that_come_while_a_link_connects_share_it(link: Link, framed: FramedHost) -> None:
    answers = await asyncio.gather(*(call(link, b"%d" % n) for n in range(50)))
    assert [b'"of": "%d"' % n in answer for n, answer in enumerate(answers)] == [True] * 50
    assert framed.greeted == 1


async def test_a_caller_that_leaves_while_a_link_connects_takes_no_other_along(link: Link, framed: FramedHost) -> None:
    leaving, staying = calling(link), calling(link)
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying
    assert (framed.greeted, len(framed.calls)) == (1, 1)


@pytest.mark.parametrize("greeting", [b"", b"HTTP/1.1 101 Switching", b"x" * 200_000], ids=["silent", "half", "noise"])
async def test_a_greeting_that_never_comes_is_a_failed_connect_and_leaves_no_connection(
    link: Link, framed: FramedHost, greeting: bytes
) -> None:
    framed.greeting = greeting
    with pytest.raises(ConnectFailed, match="in time"):
        await call(link)
    await until(lambda: not framed._writers, "the end of the connection")


async def test_a_deadline_that_ends_before_the_greeting_is_overdue(link: Link, framed: FramedHost) -> None:
    framed.greeting = b""
    with pytest.raises(Overdue):
        await call(link, within_s=0.1)


async def test_a_refused_greeting_leaves_no_connection(link: Link, framed: FramedHost) -> None:
    framed.greeting = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
    for _ in range(2):
        with pytest.raises(NotSpoken):
            await call(link)
    await until(lambda: not framed._writers, "the end of the connection")
    assert framed.greeted == 1


@pytest.mark.parametrize("address", ["127.0.0.1:1", "host.invalid:80", "x" * 70 + ".invalid:80"])
async def test_an_address_that_nobody_answers_at_is_a_failed_connect(address: str) -> None:
    link = Link(address, b"")
    for _ in range(2):
        with pytest.raises(ConnectFailed):
            await call(link)
    assert link.empty


async def test_a_link_that_is_closed_while_it_connects_makes_no_call_and_leaves_no_connection(
    link: Link, framed: FramedHost
) -> None:
    waiting = calling(link)
    await asyncio.sleep(0)
    assert link._connecting is not None
    link.close()
    with pytest.raises(ConnectFailed):
        await waiting
    await until(lambda: link.empty, "the end")
    await until(lambda: not framed._writers, "the end of the connection")
    with pytest.raises(ConnectFailed):
        await call(link)
    assert framed.calls == []


async def test_a_closed_link_answers_what_is_under_way_and_ends(link: Link, framed: FramedHost) -> None:
    go = asyncio.Event()

    async def later(_host: FramedHost, call: Call, writer: asyncio.StreamWriter) -> bool:
        await go.wait()
        send(writer, plain(call))
        return True

    framed.on_call = later
    waiting = [calling(link) for _ in range(3)]
    await until(lambda: len(framed.calls) == 3, "the calls")
    link.close()
    assert not link.empty
    go.set()
    assert all(await asyncio.gather(*waiting))
    await until(lambda: link.empty and not framed._writers, "the end")


async def test_a_call_on_a_closed_link_is_overdue_at_its_deadline(link: Link, framed: FramedHost) -> None:
    framed.on_call = never
    waiting = calling(link, within_s=0.3)
    await until(lambda: framed.calls, "the call")
    link.close()
    with pytest.raises(Overdue):
        await waiting
    await until(lambda: link.empty and not framed._writers, "the end")


async def test_a_call_to_a_generation_that_is_gone_is_504_at_its_deadline(
    router: RunningRouter, desired: Desired, framed: FramedHost, other: FramedHost
) -> None:
    key = await one_version(router, desired, framed, deadline_ms=700)
    framed.on_call = never
    waiting = asyncio.create_task(router.infer(key))
    await until(lambda: framed.calls, "the call")
    (host,) = known(router)
    hosts = router.app.deps.hosts
    other.host_id = framed.host_id
    await desired.host(other, 1)
    await until(lambda: host in hosts._retired, "the end of the generation")
    assert refused(await waiting) == (504, "deadline_exceeded")
    await until(lambda: not hosts._retired and not framed.writers, "the end of its link")
    assert (await router.infer(key)).status_code == 200


async def test_ids_begin_again_at_their_end_and_every_call_gets_its_own_answer(link: Link, framed: FramedHost) -> None:
    await call(link)
    assert link._wire is not None
    link._wire._ids = itertools.count(2**32 - 20)
    answers = await asyncio.gather(*(call(link, b"%d" % n) for n in range(40)))
    assert [b'"of": "%d"' % n in answer for n, answer in enumerate(answers)] == [True] * 40
    assert {frame.id for frame in framed.calls} >= {2**32 - 1, 0, 1}


async def test_a_host_that_falls_silent_is_reached_anew_and_keeps_what_is_under_way(
    link: Link, framed: FramedHost
) -> None:
    go = asyncio.Event()

    async def silent(_host: FramedHost, call: Call, writer: asyncio.StreamWriter) -> bool:
        await go.wait()
        send(writer, plain(call))
        return True

    await call(link)
    framed.on_call = silent
    staying = calling(link)
    with pytest.raises(Overdue):
        await call(link, within_s=1.5)
    framed.on_call = None
    assert await call(link)
    assert framed.greeted == 2
    go.set()
    assert await staying
    await until(lambda: len(framed.writers) == 1, "the end of the first connection")


async def test_a_host_that_answers_others_keeps_its_link_when_a_call_is_overdue(link: Link, framed: FramedHost) -> None:
    async def slow_for_one(host: FramedHost, call: Call, writer: asyncio.StreamWriter) -> bool:
        return call.body == b"slow" and await never(host, call, writer)

    framed.on_call = slow_for_one
    waiting = calling(link, b"slow", within_s=1.5)
    while not waiting.done():
        await call(link)
        await asyncio.sleep(0.01)
    with pytest.raises(Overdue):
        await waiting
    (slow,) = (frame.id for frame in framed.calls if frame.body == b"slow")
    await until(lambda: framed.cancelled == [slow], "the cancel")
    assert await call(link)
    assert framed.greeted == 1


async def test_a_host_that_vanished_without_a_word_is_left_alone_after_its_first_overdue_calls(
    router: RunningRouter, desired: Desired, framed: FramedHost, other: FramedHost
) -> None:
    key = await one_version(router, desired, framed, other, deadline_ms=1200)
    await asyncio.gather(*(router.infer(key) for _ in range(20)))
    framed.on_call = never
    framed._server.close()
    answers = await asyncio.gather(*(router.infer(key) for _ in range(20)))
    assert 504 in {answer.status_code for answer in answers}
    answers = await asyncio.gather(*(router.infer(key) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}


async def test_a_lost_link_is_lost_for_each_of_its_calls_and_the_next_connects(link: Link, framed: FramedHost) -> None:
    framed.on_call = never
    waiting = [calling(link) for _ in range(5)]
    await until(lambda: len(framed.calls) == 5, "the calls")
    framed.on_call = None
    framed.drop_links()
    assert [type(e) for e in await asyncio.gather(*waiting, return_exceptions=True)] == [AnswerLost] * 5
    assert await call(link)
    assert framed.greeted == 2
