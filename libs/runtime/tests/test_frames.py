"""Links at a real host: each call gets its own answer, and nothing of a call outlives its caller."""

import asyncio
import struct
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import skops.io
from sklearn.linear_model import LinearRegression

from moorage_common.contracts import host_calls, host_frames
from moorage_common.contracts.host_frames import Answer
from moorage_runtime.calls import asked_in
from moorage_runtime.signature import infer_signature

sys.path.append(str(Path(__file__).parent))
from frames_harness import HEAD, PATH, GatedHost, Peer, body, hello, linked, np_body, until, values

RNG = np.random.default_rng(3)
X = RNG.normal(size=(64, 4))
MODEL = LinearRegression().fit(X, RNG.normal(size=(64, 300)))
"""Some 6 kB of JSON for each row."""
LONG_ROWS = 60


@pytest.fixture
def client(blobs: Any, start_host: Any) -> Any:
    ref = blobs.put(skops.io.dumps(MODEL))
    return start_host(blobs.spec(ref, "skops", infer_signature(MODEL, X[:4])))


@pytest.fixture
async def peer(client: Any) -> AsyncIterator[Peer]:
    async with linked(client.identity["address"], client.identity["token"]) as found:
        yield found


@pytest.fixture
async def gated() -> AsyncIterator[GatedHost]:
    host = GatedHost()
    yield host
    await host.close()


def code_of(answer: Answer) -> str:
    assert host_frames.are_fields(answer.fields)
    fields = dict(line.split(b": ", 1) for line in answer.fields.split(b"\r\n")[:-1])
    assert list(orjson.loads(answer.body)) == ["error"]
    return fields[host_calls.ERROR_CODE.encode()].decode()


async def test_a_link_needs_the_token_of_this_generation_and_the_tenant(client: Any) -> None:
    identity = client.identity
    for token, tenant, refused in (
        ("", "demo", b"HTTP/1.1 401"), (identity["token"] + "x", "demo", b"HTTP/1.1 401"),
        (identity["token"], "other", b"HTTP/1.1 404"), (identity["token"], "", b"HTTP/1.1 404"),
    ):  # fmt: skip
        headers = {host_calls.TOKEN: token, host_calls.TENANT: tenant}
        line, _, writer = await hello(identity["address"], **headers)
        assert line.startswith(refused)
        writer.close()


async def test_frames_is_no_path_without_an_upgrade(client: Any) -> None:
    headers = {host_calls.TOKEN: client.identity["token"], host_calls.TENANT: "demo"}
    answer = await asyncio.to_thread(client.http.get, host_frames.PATH, headers=headers)
    assert (answer.status_code, answer.headers[host_calls.ERROR_CODE]) == (404, "not_found")


async def test_a_call_is_answered_with_what_the_router_wants_to_know(peer: Peer) -> None:
    peer.call(5, np_body(X[:2]))
    answer = await peer.answer()
    assert (answer.id, answer.status, answer.rows, host_frames.STATES[answer.state]) == (5, 200, 2, "ok")
    assert answer.fields == b"content-type: application/json\r\n"
    assert answer.service_us > 0
    said = orjson.loads(answer.body)
    np.testing.assert_allclose(np.reshape(said["outputs"][0]["data"], (2, 300)), MODEL.predict(X[:2]))


async def test_hundreds_of_calls_at_once_over_one_link_each_get_their_own_answer(gated: GatedHost) -> None:
    async with gated.link() as peer:
        await gated.busy(peer)
        for number in range(100, 598):
            peer.call(number, body(*[number] * (number % 3 + 1)))
        await until(lambda: gated.batcher.waiting == 499, "the calls")
        gated.model.gate.set()
        answers = await peer.answers(499)
    for number in range(100, 598):
        rows = number % 3 + 1
        assert (values(answers[number]), answers[number].rows) == ([2.0 * number] * rows, rows)
    assert len(gated.model.calls) < 60


async def test_errors_of_one_call_leave_the_others_alone(gated: GatedHost) -> None:
    async with gated.link() as peer:
        await gated.busy(peer, 2)
        peer.call(3, body(13))
        peer.call(4, b"not json")
        peer.call(5, body(1), head=HEAD.replace(b"versions/1", b"versions/2"))
        peer.call(6, body(1), head=HEAD.replace(b"versions/1", b"versions/x"))
        peer.call(7, body(1), head=b"GET /healthz HTTP/1.1\r\n")
        peer.call(8, body(1), head=b"")
        peer.call(9, body(1), head=b"\xff\0" * 40)
        peer.call(10, body(1), left_ms=0)
        peer.call(11, b"nope", head=HEAD + b"content-encoding: gzip\r\n")
        peer.call(12, b"", head=HEAD + b"inference-header-content-length: many\r\n")
        await until(lambda: gated.batcher.waiting == 3, "the calls that wait")
        gated.model.gate.set()
        answers = await peer.answers(12)
    assert (values(answers[1]), values(answers[2])) == ([2.0], [4.0])
    refused = {number: (answers[number].status, code_of(answers[number])) for number in range(3, 13)}
    assert refused == {
        3: (400, "bad_request"), 4: (400, "bad_request"), 5: (404, "version_unknown"), 6: (404, "version_unknown"),
        7: (404, "not_found"), 8: (404, "not_found"), 9: (404, "not_found"), 10: (504, "deadline_exceeded"),
        11: (400, "bad_request"), 12: (400, "bad_request"),
    }  # fmt: skip


async def test_a_call_that_waits_past_its_deadline_is_refused(gated: GatedHost) -> None:
    async with gated.link() as peer:
        await gated.busy(peer)
        peer.call(2, body(2), left_ms=50)
        answer = await peer.answer()
        assert (answer.id, answer.status, code_of(answer)) == (2, 504, "deadline_exceeded")


async def test_cancel_ends_a_waiting_call_and_leaves_nothing_in_the_batcher(gated: GatedHost) -> None:
    async with gated.link() as peer:
        await gated.busy(peer, 2, 3)
        peer.send(2)
        await until(lambda: gated.batcher.waiting == 2, "the end of call 2")
        peer.send(1, 1, 99)
        await until(lambda: gated.calls == 1, "the end of call 1")
        gated.model.gate.set()
        assert (await peer.answer()).id == 3
        assert gated.model.calls == [[1.0], [3.0]]
        assert (gated.batcher.waiting, gated.calls) == (0, 0)


async def test_an_id_is_free_again_once_its_call_was_cancelled(gated: GatedHost) -> None:
    async with gated.link() as peer:
        await gated.busy(peer, 2)
        peer.send(2)
        peer.call(2, body(7))
        await until(lambda: gated.calls == 2, "both calls")
        gated.model.gate.set()
        answers = await peer.answers(2)
        assert values(answers[2]) == [14.0]
        assert gated.calls == 0


@pytest.mark.parametrize("ending", ["closed", "aborted"])
async def test_the_end_of_a_link_ends_all_its_calls_and_none_of_anothers(gated: GatedHost, ending: str) -> None:
    async with gated.link() as peer, gated.link() as other:
        await gated.busy(peer, 2, 3, 4)
        other.call(9, body(9))
        await until(lambda: gated.batcher.waiting == 5, "the other's call")
        if ending == "closed":
            peer.writer.close()
        else:
            peer.writer.transport.abort()
        await until(lambda: gated.batcher.waiting == 2, "the end of what waits")
        assert len(gated.app.links) == 1
        gated.model.gate.set()
        assert values(await other.answer()) == [18.0]
        assert gated.model.calls == [[1.0], [9.0]]


async def test_a_long_answer_is_announced_and_read_once(client: Any, peer: Peer) -> None:
    headers = {host_calls.TOKEN: client.identity["token"], host_calls.TENANT: "demo"}
    peer.call(1, np_body(X[:LONG_ROWS]))
    told = await peer.answer()
    name, _, path = told.fields.removesuffix(b"\r\n").decode().partition(": ")
    assert (told.status, told.body, told.rows, name) == (200, b"", LONG_ROWS, host_frames.ANSWER_AT)
    refused = await asyncio.to_thread(client.http.get, path)
    assert refused.status_code == 401
    found = await asyncio.to_thread(client.http.get, path, headers=headers)
    assert found.status_code == 200
    assert len(found.content) > host_frames.FRAMED_BYTES
    np.testing.assert_allclose(
        np.reshape(found.json()["outputs"][0]["data"], (LONG_ROWS, 300)), MODEL.predict(X[:LONG_ROWS])
    )
    again = await asyncio.to_thread(client.http.get, path, headers=headers)
    assert (again.status_code, again.headers[host_calls.ERROR_CODE]) == (404, "not_found")


async def test_a_long_answer_that_nobody_reads_is_dropped_at_its_deadline(client: Any, peer: Peer) -> None:
    kept = client.host._service.server._app._kept
    peer.call(1, np_body(X[:LONG_ROWS]), left_ms=400)
    told = await peer.answer()
    assert told.status == 200
    await until(lambda: not kept, "the end of the answer")


async def test_a_router_that_does_not_read_makes_the_host_take_no_more_calls(client: Any, peer: Peer) -> None:
    asked = np_body(X[:35])
    (link,) = client.host._service.server._app.links
    sent, more = 80, 150  # 17 MB of answers: the sockets' buffers hold less
    for number in range(sent):
        peer.call(number, asked)
    await until(lambda: link._transport.get_write_buffer_size() > 2**18 and link.calls == 0, "unread answers")
    held = link._transport.get_write_buffer_size()
    for number in range(sent, sent + more):
        peer.call(number, asked + b" " * 200_000)
    told = asyncio.create_task(peer.writer.drain())
    answer = await asyncio.to_thread(client.infer, np_body(X[:1]))
    assert answer.status_code == 200
    assert not told.done()
    assert link.calls == 0
    assert link._transport.get_write_buffer_size() < held + 2**20  # of the 30 MB that the others would be answered with
    answers = await peer.answers(sent + more)
    assert {answer.status for answer in answers.values()} == {200}
    await told


async def test_stop_answers_what_is_in_flight_on_a_link_and_closes_it(gated: GatedHost) -> None:
    async with gated.link() as peer, gated.link() as idle:
        await gated.busy(peer, 2, 3)
        stopping = gated.stop()
        assert await idle.ended() == b""
        gated.model.gate.set()
        answers = await peer.answers(3)
        assert [values(answers[number]) for number in (1, 2, 3)] == [[2.0], [4.0], [6.0]]
        assert await peer.ended() == b""
        await stopping


async def test_stop_refuses_a_router_that_goes_on_calling_so_that_it_ends(gated: GatedHost) -> None:
    async with gated.link() as peer, gated.link() as idle:
        await gated.busy(peer)
        stopping = gated.stop()
        assert await idle.ended() == b""
        refusal = asyncio.create_task(peer.answer())
        sent = 1
        while not refusal.done():
            sent += 1
            peer.call(sent, body(20))
            await asyncio.sleep(0.02)
        assert (refusal.result().status, code_of(refusal.result())) == (503, "draining")
        gated.model.gate.set()
        answers = await peer.answers(sent - 1)
        assert values(answers[1]) == [2.0]
        assert {answer.status for answer in answers.values()} <= {200, 503}
        assert await peer.ended() == b""
        await stopping


async def test_stop_waits_for_no_router_that_comes_meanwhile(gated: GatedHost) -> None:
    async with gated.link() as first:
        began = time.monotonic()
        stopping = gated.stop()
        assert await first.ended() == b""
        async with gated.link() as late:
            late.call(1, body(1))
            assert (await late.answer()).status in {200, 503}
            assert await late.ended() == b""
            await stopping
    assert time.monotonic() - began < 5


GARBAGE = {
    "no frame": b"GET / HTTP/1.1\r\n\r\n",
    "a frame too long": struct.pack("!I", 2**31),
    "a frame that lies": struct.pack("!IB", 1, 2),
    "an answer": host_frames.encode_answer(Answer(1, 200, 0, 0, 0, 0, b"", b"")),
    "an id that is open": host_frames.encode_call(host_frames.Call(1, 9000, b"t" * 55, HEAD, body(1))),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
async def test_garbage_ends_its_link_and_its_calls_and_nothing_else(gated: GatedHost, garbage: bytes) -> None:
    async with gated.link() as other, gated.link() as peer:
        await gated.busy(peer, 2)
        peer.writer.write(garbage)
        assert await peer.ended() == b""
        await until(lambda: gated.calls == 0, "the end of its calls")
        gated.model.gate.set()
        other.call(1, body(21))
        assert values(await other.answer()) == [42.0]


async def test_links_and_http_are_answered_side_by_side(client: Any, peer: Peer) -> None:
    peer.call(1, np_body(X[:1]))
    by_http = await asyncio.to_thread(client.infer, np_body(X[:1]), path=PATH)
    by_link = await peer.answer()
    assert by_http.json() == orjson.loads(by_link.body)


async def test_heads_that_differ_in_every_call_take_bounded_memory() -> None:
    most = asked_in.cache_info().maxsize
    assert most is not None
    assert most * 2 * 2**16 <= 64 * 2**20, "as many of the longest heads, with what was read of them"
