"""Outputs kept for labels: only where a route says so, both versions of a copied request, never in a caller's way."""

import asyncio
import time

import pytest
from framed_host import FramedHost, one_version, plain, send
from prometheus_client import generate_latest
from router_harness import Desired, FakeHost, RunningRouter, Seen, until

from moorage_common.bus import Bus
from moorage_common.contracts import host_calls
from moorage_common.contracts.feedback import AnsweredOutput, Output, OutputsChunk, encode_output
from moorage_common.contracts.host_frames import Call
from moorage_common.contracts.names import STREAM_OUTPUTS
from moorage_common.contracts.routes import RouteFeedback, RouteRollout
from moorage_common.testing.servers import Server
from moorage_router.feedback.outputs import PAIR_S, Outputs
from moorage_router.metrics import RouterMetrics

YES = Output(kind="class", value="größte")
HALF = Output(kind="number", value="0.5")
ASKS = f"{host_calls.COMPACT}: ".encode()


async def with_output(_host: FramedHost, call: Call, writer: asyncio.StreamWriter) -> bool:
    """As a host does: an output only for who asks."""
    output = encode_output(YES) if ASKS in call.head else b""
    send(writer, plain(call, output=output))
    return True


async def kept_on(bus: Bus) -> list[AnsweredOutput]:
    js = bus.jetstream()
    if STREAM_OUTPUTS not in [info.config.name for info in await js.streams_info()]:
        return []
    state = (await js.stream_info(STREAM_OUTPUTS)).state
    messages = [await js.get_msg(STREAM_OUTPUTS, n) for n in range(max(1, state.first_seq), state.last_seq + 1)]
    chunks = [OutputsChunk.model_validate_json(message.data or b"") for message in messages]
    assert len({chunk.chunk_id for chunk in chunks}) == len(chunks)
    return [one for chunk in chunks for one in chunk.outputs]


async def until_kept(bus: Bus, count: int) -> list[AnsweredOutput]:
    deadline = time.monotonic() + 20
    while len(found := await kept_on(bus)) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} outputs came"
        await asyncio.sleep(0.05)
    return found


def outputs_of(router: RunningRouter) -> Outputs:
    assert router.app.deps is not None
    return router.app.deps.outputs


async def test_where_nothing_is_kept_hosts_are_not_asked(
    router: RunningRouter, desired: Desired, framed: FramedHost
) -> None:
    framed.on_call = with_output
    key = await one_version(router, desired, framed)
    await router.burst(key, 50, 2)
    assert not any(ASKS in call.head for call in framed.calls)
    assert outputs_of(router).waiting == 0


async def test_every_answer_is_kept_with_its_id_version_and_arm_and_the_caller_sees_nothing_of_it(
    router: RunningRouter, desired: Desired, framed: FramedHost
) -> None:
    framed.on_call = with_output
    key = await one_version(router, desired, framed, feedback=RouteFeedback(output="pre dict"))
    began = time.time()
    answers = [await router.infer(key) for _ in range(20)]
    assert all(ASKS + b"pre%20dict\r\n" in call.head for call in framed.calls)
    assert not [name for name in answers[0].headers if name.startswith("moorage-out-")]
    found = await until_kept(desired.bus, 20)
    assert {one.ulid for one in found} == {answer.headers["moorage-request-id"][:26] for answer in answers}
    (told,) = {one.model_dump_json(exclude={"ulid", "at"}) for one in found}
    assert told == AnsweredOutput(ulid="", tenant="demo", model="m", version=1, at=0, output=YES).model_dump_json(
        exclude={"ulid", "at"}
    )
    assert all(began <= one.at <= time.time() for one in found)
    await until(lambda: outputs_of(router).bytes == outputs_of(router).waiting == 0, "the acknowledgement")


async def test_over_http_outputs_are_kept_as_well(router: RunningRouter, desired: Desired, host: FakeHost) -> None:
    async def answer(_host: FakeHost, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        assert seen.headers[host_calls.COMPACT] == host_calls.FIRST
        writer.write(b"HTTP/1.1 200 OK\r\nmoorage-out-compact: n0.5\r\ncontent-length: 2\r\n\r\n{}")
        return True

    host.behaviour = answer
    key = await one_version(router, desired, host, feedback=RouteFeedback())
    reply = await router.infer(key)
    assert "moorage-out-compact" not in reply.headers
    (kept,) = await until_kept(desired.bus, 1)
    assert kept.output == HALF


async def test_a_share_of_the_answers_is_kept_where_a_share_is_asked_for(
    router: RunningRouter, desired: Desired, framed: FramedHost
) -> None:
    framed.on_call = with_output
    key = await one_version(router, desired, framed, feedback=RouteFeedback(keep_bp=2500))
    await router.burst(key, 2000, 20)
    asked = sum(ASKS in call.head for call in framed.calls)
    assert 380 < asked < 630, "a quarter of 2,000, within six sigma"
    assert len(await until_kept(desired.bus, asked)) == asked


async def test_a_refused_request_and_an_answer_without_an_output_keep_nothing(
    router: RunningRouter, desired: Desired, framed: FramedHost
) -> None:
    async def refuse(_host: FramedHost, call: Call, writer: asyncio.StreamWriter) -> bool:
        send(writer, plain(call, status=400, body=b'{"error":"bad"}') if b"bad" in call.body else plain(call))
        return True

    framed.on_call = refuse
    key = await one_version(router, desired, framed, feedback=RouteFeedback())
    assert (await router.infer(key, content=b"bad")).status_code == 400
    assert (await router.infer(key)).status_code == 200
    assert outputs_of(router).waiting == 0


async def test_what_is_kept_while_the_bus_is_away_arrives_afterwards_and_no_caller_waits_for_it(
    router: RunningRouter, desired: Desired, framed: FramedHost, own_nats: Server
) -> None:
    framed.on_call = with_output
    key = await one_version(router, desired, framed, feedback=RouteFeedback())
    await asyncio.to_thread(own_nats.kill)
    answers = await router.burst(key, 200, 4)
    assert {status for status, _ in answers} == {200}
    await asyncio.to_thread(own_nats.start)
    found = await until_kept(desired.bus, 200)
    assert len({one.ulid for one in found}) == 200


async def test_a_router_that_ends_ships_what_it_kept(
    router: RunningRouter, desired: Desired, framed: FramedHost
) -> None:
    framed.on_call = with_output
    rollout = RouteRollout(id="r", stable=1, candidate=2, paired_bp=10_000)
    key = await one_version(router, desired, framed, feedback=RouteFeedback(), rollout=rollout)
    await router.burst(key, 40, 2)
    await outputs_of(router).close()
    assert len(await kept_on(desired.bus)) == 40


@pytest.fixture
async def unshipped(router: RunningRouter, desired: Desired, framed: FramedHost) -> list[str]:
    """Ids of ten answers whose requests are being copied, of which nothing has been shipped."""
    await one_version(router, desired, framed)
    assert router.app.deps is not None
    served = router.app.deps.routes.find("demo", "m").versions[1]
    ids = [served.ids.new() for _ in range(10)]
    for request_id in ids:
        outputs_of(router).answered(request_id, served, YES, paired=True)
    return ids


async def test_what_another_version_answered_to_a_copy_is_kept_with_the_answer(
    router: RunningRouter, desired: Desired, unshipped: list[str]
) -> None:
    outputs = outputs_of(router)
    assert [outputs.other(request_id, 2, HALF) for request_id in unshipped[:4]] == [True] * 4
    assert not outputs.other(unshipped[0], 2, YES), "it left with the first"
    assert not outputs.other("0" * 26, 2, YES)
    began = time.monotonic()
    found = {one.ulid: one for one in await until_kept(desired.bus, 10)}
    assert time.monotonic() - began < PAIR_S + 5, "the others leave without"
    for place, request_id in enumerate(unshipped):
        kept = found[request_id[:26]]
        assert (kept.version, kept.output) == (1, YES)
        assert (kept.other_version, kept.other) == ((2, HALF) if place < 4 else (None, None))


async def test_the_buffer_is_bounded_loses_its_oldest_and_counts_them(router: RunningRouter, desired: Desired) -> None:
    await desired.route({1: 10_000})
    deps = router.app.deps
    assert deps is not None
    await until(lambda: list(deps.routes.of_tenant("demo")), "the route")
    served = deps.routes.find("demo", "m").versions[1]
    metrics = RouterMetrics()
    outputs = Outputs(desired.bus, "r", metrics, buffer_bytes=100_000)
    long = Output(kind="class", value="a" * 1000)
    for place in range(1000):
        outputs.answered(f"{place:026d}.rest", served, long if place % 2 else HALF, paired=place % 3 == 0)
        assert outputs.bytes <= 100_000
    left = outputs.waiting
    assert 50 < left < 200
    assert f"moorage_router_outputs_lost_total {1000 - left}.0" in generate_latest(metrics.registry).decode()
    await outputs.close()
    assert (outputs.bytes, outputs.waiting) == (0, 0)
    assert max(int(one.ulid) for one in await kept_on(desired.bus)) == 999


async def test_outputs_of_the_worst_kind_fit_the_bus(router: RunningRouter, desired: Desired) -> None:
    await desired.route({1: 10_000})
    deps = router.app.deps
    assert deps is not None
    await until(lambda: list(deps.routes.of_tenant("demo")), "the route")
    served = deps.routes.find("demo", "m").versions[1]
    outputs = Outputs(desired.bus, "r", RouterMetrics())
    worst = Output(kind="class", value="\x01" * 1024)
    for place in range(1000):
        outputs.answered(f"{place:026d}", served, worst, paired=True)
        assert outputs.other(f"{place:026d}", 2, worst)
    await outputs.ship()
    assert len(await kept_on(desired.bus)) == 1000
