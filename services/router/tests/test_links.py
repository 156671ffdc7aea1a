"""Calls over links: as over HTTP, whatever happens to the link, the host or the caller."""

import asyncio
import json
import time

import pytest
from framed_host import CODE, JSON, FramedHost, known, lose, never, one_version, plain, refused, send
from router_harness import BODY, Desired, FakeHost, RunningRouter, Seen, until

from moorage_common.contracts.host_frames import ANSWER_AT, FRAMED_BYTES, Call


async def test_small_calls_share_one_link_and_each_gets_its_own_answer(
    router: RunningRouter, desired: Desired, framed: FramedHost
) -> None:
    key = await one_version(router, desired, framed)
    answers = await asyncio.gather(*(router.infer(key, content=b"%d" % n) for n in range(200)))
    assert [answer.json()["of"] for answer in answers] == [str(n) for n in range(200)]
    assert (framed.greeted, len(framed.calls), framed.seen) == (1, 200, [])


async def test_a_call_reaches_the_host_with_what_the_caller_sent(
    router: RunningRouter, desired: Desired, framed: FramedHost
) -> None:
    key = await one_version(router, desired, framed, deadline_ms=5000)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await router.infer(key, headers={"x-request-id": "q", "traceparent": trace, "x-other": "no"})
    (call,) = framed.calls
    line, *fields = call.head.decode().split("\r\n")
    assert line == "POST /v2/models/m/versions/1/infer HTTP/1.1"
    assert "x-request-id: q" in fields
    assert {field.partition(":")[0] for field in fields[:-1]} <= {
        "x-request-id",
        "accept",
        "accept-encoding",
        "user-agent",
        "moorage-arm",
    }
    assert call.traceparent.decode().split("-")[1] == trace.split("-")[1]
    assert call.body == BODY
    assert 4000 < call.left_ms <= 5000


async def test_a_body_too_long_for_a_frame_goes_over_http(
    router: RunningRouter, desired: Desired, framed: FramedHost
) -> None:
    key = await one_version(router, desired, framed)
    for size in (FRAMED_BYTES, FRAMED_BYTES + 1, 600_000):
        assert (await router.infer(key, content=b"x" * size)).status_code == 200
    assert [len(call.body) for call in framed.calls] == [FRAMED_BYTES]
    assert [len(seen.body) for seen in framed.seen] == [FRAMED_BYTES + 1, 600_000]


@pytest.mark.parametrize(
    "greeting",
    [
        b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.0 400 Bad Request\r\n\r\n",
        b"220 mail.example ESMTP\r\n\r\n",
    ],
)
async def test_a_host_that_takes_no_frames_is_called_over_http_from_then_on(
    router: RunningRouter, desired: Desired, framed: FramedHost, greeting: bytes
) -> None:
    key = await one_version(router, desired, framed)
    framed.greeting = greeting
    answers = await asyncio.gather(*(router.infer(key) for _ in range(20)))
    answers.append(await router.infer(key))
    assert {answer.status_code for answer in answers} == {200}
    assert (framed.greeted, framed.calls, len(framed.seen)) == (1, [], 21)


async def test_a_link_lost_in_flight_is_made_good_by_another_host(
    router: RunningRouter, desired: Desired, framed: FramedHost, other: FramedHost
) -> None:
    key = await one_version(router, desired, framed, other)
    framed.on_call = lose
    answers = await asyncio.gather(*(router.infer(key) for _ in range(40)))
    assert {answer.status_code for answer in answers} == {200}
    assert framed.calls
    assert len(other.calls) == 40


async def test_a_link_lost_in_flight_is_502_for_code(
    router: RunningRouter, desired: Desired, framed: FramedHost, other: FramedHost
) -> None:
    key = await one_version(router, desired, framed, other, **CODE)
    framed.on_call = other.on_call = lose
    assert refused(await router.infer(key)) == (502, "upstream_failed")
    assert len(framed.calls) + len(other.calls) == 1


async def test_a_link_that_ended_before_a_call_is_made_anew(
    router: RunningRouter, desired: Desired, framed: FramedHost
) -> None:
    key = await one_version(router, desired, framed, **CODE)
    assert (await router.infer(key)).status_code == 200
    (host,) = known(router)
    framed.drop_links()
    await until(lambda: host.link.empty, "the end of the link")
    assert (await router.infer(key)).status_code == 200
    assert (framed.greeted, host.ejected) == (2, False)


async def test_a_host_that_is_gone_before_the_call_is_avoided_also_for_code(
    router: RunningRouter, desired: Desired, framed: FramedHost, other: FramedHost
) -> None:
    key = await one_version(router, desired, framed, other, **CODE)
    await framed.kill()
    answers = [await router.infer(key) for _ in range(10)]
    assert {answer.status_code for answer in answers} == {200}
    assert len(other.calls) == 10


async def test_an_overdue_call_is_504_and_ends_at_the_host(
    router: RunningRouter, desired: Desired, framed: FramedHost
) -> None:
    ended = asyncio.Event()

    async def until_ended(host: FramedHost, call: Call, writer: asyncio.StreamWriter) -> bool:
        try:
            return await never(host, call, writer)
        finally:
            ended.set()

    key = await one_version(router, desired, framed, deadline_ms=400)
    framed.on_call = until_ended
    began = time.monotonic()
    assert refused(await router.infer(key)) == (504, "deadline_exceeded")
    assert time.monotonic() - began < 3
    await asyncio.wait_for(ended.wait(), 10)
    framed.on_call = None
    assert (await router.infer(key)).status_code == 200


async def test_a_caller_that_goes_away_cancels_its_call_and_no_other(
    router: RunningRouter, desired: Desired, framed: FramedHost
) -> None:
    key = await one_version(router, desired, framed)
    framed.on_call = never
    _, writer = await asyncio.open_connection("127.0.0.1", router.port)
    head = f"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key.text}\r\n"
    writer.write(f"{head}Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY)
    await until(lambda: framed.calls, "the host's call")
    framed.on_call = None
    served = router.app.deps.routes.find("demo", "m").versions[1]
    (host,) = known(router)
    writer.transport.abort()
    await until(lambda: framed.cancelled == [framed.calls[0].id], "the cancel")
    await until(lambda: served.replicas.in_flight == 0, "the end of the request")
    assert (host.in_flight, router.app.deps.limits.tenants["demo"].in_flight) == (0, 0)
    assert served.series.by_code == {499: 1}
    assert (await router.infer(key)).status_code == 200
    assert framed.greeted == 1


async def test_a_host_of_another_generation_is_noticed_when_it_is_asked_for_a_link(
    router: RunningRouter, desired: Desired, framed: FramedHost
) -> None:
    key = await one_version(router, desired, framed, **CODE)
    (host,) = known(router)
    framed.token = "token-of-the-next-generation"
    waiting = asyncio.create_task(router.infer(key))
    await until(lambda: host.ejected, "the ejection")
    framed.generation = "generation-2"
    await desired.host(framed, 1)
    assert (await waiting).status_code == 200
    assert len(framed.calls) == 1


MALFORMED = {
    "the end of the head": {"fields": JSON + b"\r\nHTTP/1.1 200 OK\r\n"},
    "a line without its end": {"fields": b"a: b"},
    "a bare line feed": {"fields": b"a: b\nset-cookie: c\r\n"},
    "a length of its own": {"fields": b"content-length: 1\r\n"},
    "a coding of its own": {"fields": b"transfer-encoding: chunked\r\n"},
    "the request id of another": {"fields": b"moorage-request-id: x\r\n"},
    "an interim status": {"status": 101},
    "a status without a body": {"status": 204},
    "another status without a body": {"status": 304},
    "no status": {"status": 0},
    "a status beyond all": {"status": 65535},
}


@pytest.mark.parametrize("changes", MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_malformed_answer_never_reaches_the_caller_nor_harms_another_call(
    router: RunningRouter, desired: Desired, framed: FramedHost, changes: dict[str, object]
) -> None:
    async def malformed(host: FramedHost, call: Call, writer: asyncio.StreamWriter) -> bool:
        await until(lambda: len(host.calls) == 9, "all calls")
        send(writer, plain(call, **(changes if call.body == b"bad" else {})))
        return True

    key = await one_version(router, desired, framed, **CODE)
    framed.on_call = malformed
    answers = await asyncio.gather(
        router.infer(key, content=b"bad"), *(router.infer(key, content=b"%d" % n) for n in range(8))
    )
    assert refused(answers[0]) == (502, "upstream_failed")
    assert [answer.json()["of"] for answer in answers[1:]] == [str(n) for n in range(8)]
    assert framed.greeted == 1


async def test_an_answer_given_twice_or_to_nobody_changes_no_other(
    router: RunningRouter, desired: Desired, framed: FramedHost
) -> None:
    async def twice(_host: FramedHost, call: Call, writer: asyncio.StreamWriter) -> bool:
        for wrong in (plain(call), plain(call, body=b"second"), plain(call, id=10**6, body=b"nobody")):
            send(writer, wrong)
        return True

    key = await one_version(router, desired, framed)
    framed.on_call = twice
    for _ in range(3):
        answers = await asyncio.gather(*(router.infer(key, content=b"%d" % n) for n in range(20)))
        assert [answer.json()["of"] for answer in answers] == [str(n) for n in range(20)]
    assert framed.greeted == 1


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 200 OK\r\n\r\n", b"\0\0\0\x05\x02\0\0\0\x01", b"\0\0\0\0\0"])
async def test_a_host_that_ceases_to_speak_frames_loses_its_link_and_the_calls_are_made_elsewhere(
    router: RunningRouter, desired: Desired, framed: FramedHost, other: FramedHost, garbage: bytes
) -> None:
    async def babble(_host: FramedHost, _call: Call, writer: asyncio.StreamWriter) -> bool:
        writer.write(garbage)
        return True

    key = await one_version(router, desired, framed, other)
    framed.on_call = babble
    answers = await asyncio.gather(*(router.infer(key) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert framed.calls
    await until(lambda: not framed.writers, "the end of the link")


LONG = b"x" * (FRAMED_BYTES * 3)


async def announce(_host: FramedHost, call: Call, writer: asyncio.StreamWriter) -> bool:
    fields = f"{ANSWER_AT}: /answers/{call.id}\r\n".encode()
    send(writer, plain(call, fields=fields, body=b"", rows=77, service_us=5000))
    return True


async def give(_host: FakeHost, seen: Seen, writer: asyncio.StreamWriter) -> bool:
    assert seen.path.startswith("/answers/")
    assert seen.headers["moorage-host-token"]
    writer.write(b"HTTP/1.1 200 OK\r\n%bmoorage-out-rows: 1\r\ncontent-length: %d\r\n\r\n" % (JSON, len(LONG)) + LONG)
    await writer.drain()
    return True


async def give_404(_host: FakeHost, _seen: Seen, writer: asyncio.StreamWriter) -> bool:
    writer.write(b"HTTP/1.1 404 Not Found\r\nmoorage-error: not_found\r\ncontent-length: 2\r\n\r\n{}")
    return True


async def give_nothing(_host: FakeHost, _seen: Seen, writer: asyncio.StreamWriter) -> bool:
    writer.transport.abort()
    return True


async def test_a_long_answer_is_read_from_where_the_frame_says_and_metered_by_the_frame(
    router: RunningRouter, desired: Desired, framed: FramedHost
) -> None:
    key = await one_version(router, desired, framed)
    framed.on_call, framed.behaviour = announce, give
    answer = await router.infer(key)
    assert (answer.status_code, answer.content) == (200, LONG)
    assert ANSWER_AT not in answer.headers
    series = router.app.deps.routes.find("demo", "m").versions[1].series
    assert (series.rows, series.model_us) == (77, 5000)


@pytest.mark.parametrize("fault", [give_404, give_nothing])
async def test_a_long_answer_that_cannot_be_read_is_a_lost_answer(
    router: RunningRouter, desired: Desired, framed: FramedHost, other: FramedHost, fault: object
) -> None:
    key = await one_version(router, desired, framed, other)
    framed.on_call, framed.behaviour = announce, fault
    answers = await asyncio.gather(*(router.infer(key) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert framed.seen
    await desired.route({1: 10_000}, **CODE)
    await until(lambda: not router.app.deps.routes.find("demo", "m").versions[1].data_format, "the route")
    other.on_call, other.behaviour = announce, fault
    before = len(framed.calls) + len(other.calls)
    assert refused(await router.infer(key)) == (502, "upstream_failed")
    assert len(framed.calls) + len(other.calls) == before + 1


async def test_a_long_answer_that_cannot_be_asked_for_is_lost_and_not_a_call_that_was_never_made(
    router: RunningRouter, desired: Desired, framed: FramedHost, other: FramedHost
) -> None:
    async def announce_and_close(host: FramedHost, call: Call, writer: asyncio.StreamWriter) -> bool:
        host._server.close()
        return await announce(host, call, writer)

    key = await one_version(router, desired, framed, other, **CODE)
    framed.on_call = other.on_call = announce_and_close
    assert refused(await router.infer(key)) == (502, "upstream_failed")
    assert len(framed.calls) + len(other.calls) == 1


async def test_rows_and_time_in_the_model_are_metered_from_the_frame(
    router: RunningRouter, desired: Desired, framed: FramedHost
) -> None:
    async def five_rows(_host: FramedHost, call: Call, writer: asyncio.StreamWriter) -> bool:
        send(writer, plain(call, rows=5, service_us=700))
        return True

    key = await one_version(router, desired, framed)
    framed.on_call = five_rows
    answer = await router.infer(key)
    assert not any(name.startswith("moorage-out") for name in answer.headers)
    series = router.app.deps.routes.find("demo", "m").versions[1].series
    assert (series.rows, series.model_us) == (5, 700)


@pytest.mark.parametrize("refusal", [(404, b"version_unknown"), (503, b"draining"), (503, b"not_loaded")])
async def test_a_version_that_a_host_does_not_hold_is_asked_of_another(
    router: RunningRouter, desired: Desired, framed: FramedHost, other: FramedHost, refusal: tuple[int, bytes]
) -> None:
    status, code = refusal

    async def not_held(_host: FramedHost, call: Call, writer: asyncio.StreamWriter) -> bool:
        send(writer, plain(call, status=status, fields=JSON + b"moorage-error: %b\r\n" % code, body=b'{"error":"no"}'))
        return True

    key = await one_version(router, desired, framed, other)
    framed.on_call = not_held
    answers = await asyncio.gather(*(router.infer(key) for _ in range(40)))
    assert {answer.status_code for answer in answers} == {200}
    assert framed.calls


async def test_a_refusal_of_the_host_reaches_the_caller_as_it_is(
    router: RunningRouter, desired: Desired, framed: FramedHost
) -> None:
    async def refuse(_host: FramedHost, call: Call, writer: asyncio.StreamWriter) -> bool:
        send(writer, plain(call, status=400, fields=JSON + b"moorage-error: bad_request\r\n", body=b'{"error":"bad"}'))
        return True

    key = await one_version(router, desired, framed)
    framed.on_call = refuse
    answer = await router.infer(key)
    assert (refused(answer), answer.json()) == ((400, "bad_request"), {"error": "bad"})


async def test_fields_too_long_for_a_frame_go_over_http(
    router: RunningRouter, desired: Desired, framed: FramedHost
) -> None:
    key = await one_version(router, desired, framed)
    headers = {"x-request-id": "a" * 20_000, "user-agent": "b" * 20_000}
    assert (await router.infer(key, headers=headers)).status_code == 200
    assert (framed.calls, len(framed.seen)) == ([], 1)
    assert json.loads(framed.seen[0].body)
