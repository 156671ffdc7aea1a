"""What a router tells of a rollout's requests, on real NATS before replica hosts."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from framed_host import FramedHost, lose, never, plain, send
from router_harness import BODY, Desired, FakeHost, RunningRouter, until
from signals_reader import ROLLOUT, Judge, rolling

from moorage_common.contracts import host_calls
from moorage_common.contracts.feedback import Output, encode_output
from moorage_common.contracts.routes import Sticky


@pytest.fixture
async def judge(desired: Desired) -> AsyncIterator[Judge]:
    one = Judge()
    task = asyncio.create_task(one.read(desired.bus))
    yield one
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_every_request_of_a_rollout_is_told_once(
    router: RunningRouter, desired: Desired, framed: FramedHost, other: FramedHost, judge: Judge
) -> None:
    key = await rolling(router, desired, framed, other)
    answers = await router.burst(key, 800, 8)
    assert {status for status, _ in answers} == {200}
    await until(lambda: judge.requests(1) + judge.requests(2) >= 800, "all of them")
    assert (judge.requests(1), judge.requests(2)) == (len(framed.calls), len(other.calls))
    assert judge.bad(1) == judge.bad(2) == 0
    assert judge.timed(1) + judge.timed(2) == 800
    assert [batch.seq for batch in judge.batches] == list(range(1, len(judge.batches) + 1))
    assert max(host.requests for batch in judge.batches for host in batch.stable.hosts) <= 500


async def test_a_lost_a_late_and_a_nan_answer_are_bad_and_a_refused_request_is_not(
    router: RunningRouter, desired: Desired, framed: FramedHost, other: FramedHost, judge: Judge
) -> None:
    faults = {b"lost": lose, b"late": never}

    async def faulty(host: FramedHost, call: object, writer: asyncio.StreamWriter) -> bool:
        if call.body in faults:
            return await faults[call.body](host, call, writer)
        states = {b"nan": plain(call, state=1), b"broken": plain(call, status=500), b"refused": plain(call, status=400)}
        send(writer, states.get(call.body, plain(call)))
        return True

    other.on_call = faulty
    key = await rolling(
        router, desired, framed, other, weights={1: 0, 2: 10_000}, deadline_ms=300,
        version_fields={"format": "ray-serve"},
    )  # fmt: skip
    asked = (b"nan", b"late", b"broken", b"refused", b"fine", b"lost")
    statuses = [(await router.infer(key, content=body)).status_code for body in asked]
    assert statuses == [200, 504, 500, 400, 200, 502]
    await until(lambda: judge.requests(2) == len(asked), "all of them")
    assert judge.causes(2) == {"nan": 1, "timeout": 1, "500": 1, "lost": 1}
    assert judge.timed(2) == 3


async def test_requests_that_no_host_was_asked_are_not_counted(
    router: RunningRouter, desired: Desired, framed: FramedHost, other: FramedHost, judge: Judge
) -> None:
    key = await rolling(router, desired, framed, other, weights={1: 0, 2: 10_000}, deadline_ms=300)
    await desired.host(other)
    await until(lambda: not router.app.deps.routes.find("demo", "m").versions[2].replicas.ready, "no host")
    assert (await router.infer(key)).status_code == 503
    await desired.host(other, 2)
    assert (await router.infer(key, content=BODY)).status_code == 200
    await until(lambda: judge.batches, "the answered one")
    assert (judge.requests(2), judge.bad(2)) == (1, 0)


async def test_nan_is_seen_in_answers_over_http_too(
    router: RunningRouter, desired: Desired, host: FakeHost, other_host: FakeHost, judge: Judge
) -> None:
    async def nan(_host: FakeHost, _seen: object, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nmoorage-out-state: nan\r\ncontent-length: 2\r\n\r\n{}")
        return True

    other_host.behaviour = nan
    key = await rolling(router, desired, host, other_host, weights={1: 0, 2: 10_000})
    assert (await router.infer(key)).status_code == 200
    await until(lambda: judge.causes(2) == {"nan": 1}, "the bad one")


async def test_before_the_candidate_has_traffic_the_stable_versions_requests_are_told(
    router: RunningRouter, desired: Desired, framed: FramedHost, other: FramedHost, judge: Judge
) -> None:
    key = await rolling(router, desired, framed, other, weights={1: 10_000, 2: 0})
    await router.burst(key, 20, 2)
    await until(lambda: judge.requests(1) == 20, "all of them")
    assert judge.requests(2) == 0


async def test_without_a_rollout_and_for_pinned_versions_nothing_is_told(
    router: RunningRouter, desired: Desired, framed: FramedHost, other: FramedHost, judge: Judge
) -> None:
    key = await rolling(router, desired, framed, other, rollout=None)
    assert (await router.infer(key)).status_code == 200
    assert router.app.deps.book.taking_part == 0
    await desired.route({1: 5000, 2: 5000}, rollout=ROLLOUT)
    await until(lambda: router.app.deps.book.taking_part == 1, "the rollout")
    assert (await router.infer(key, "/v2/models/m/versions/2/infer")).status_code == 200
    assert (await router.infer(key)).status_code == 200
    await until(lambda: judge.batches, "a batch")
    assert judge.requests(1) + judge.requests(2) == 1


async def test_a_callers_retries_under_one_idempotency_key_are_told_once(
    router: RunningRouter, desired: Desired, framed: FramedHost, other: FramedHost, judge: Judge
) -> None:
    key = await rolling(router, desired, framed, other)
    for name in ("one", "one", "two", "one", "two"):
        assert (await router.infer(key, headers={"idempotency-key": name})).status_code == 200
    await until(lambda: judge.batches, "a batch")
    assert judge.requests(1) + judge.requests(2) == 2


async def test_a_caller_that_goes_away_is_counted_and_is_not_bad(
    router: RunningRouter, desired: Desired, framed: FramedHost, other: FramedHost, judge: Judge
) -> None:
    other.on_call = never
    key = await rolling(router, desired, framed, other, weights={1: 0, 2: 10_000})
    asking = asyncio.create_task(router.infer(key))
    await until(lambda: other.calls, "the call")
    asking.cancel()
    await until(lambda: judge.batches, "a batch")
    assert (judge.requests(2), judge.bad(2), judge.timed(2)) == (1, 0, 1)


async def test_a_request_lost_by_one_host_and_answered_by_another_is_the_others_and_not_bad(
    router: RunningRouter, desired: Desired, framed: FramedHost, other: FramedHost, judge: Judge
) -> None:
    framed.on_call = lose
    key = await rolling(router, desired, framed, other, weights={1: 0, 2: 10_000})
    await desired.host(framed, 2)
    await until(lambda: len(router.app.deps.routes.find("demo", "m").versions[2].replicas.ready) == 2, "both hosts")
    for _ in range(100):
        assert (await router.infer(key)).status_code == 200
        if framed.calls:
            break
    assert framed.calls
    await until(lambda: judge.requests(2) == len(other.calls), "all of them")
    assert judge.bad(2) == 0
    assert {host.host for batch in judge.batches for host in batch.candidate.hosts} == {"host-2"}


async def test_of_a_sticky_key_only_the_first_bad_event_is_told(
    router: RunningRouter, desired: Desired, framed: FramedHost, other: FramedHost, judge: Judge
) -> None:
    async def fail(_host: FramedHost, call: object, writer: asyncio.StreamWriter) -> bool:
        send(writer, plain(call, status=500))
        return True

    other.on_call = fail
    sticky = Sticky(by="header", name="x-user")
    key = await rolling(router, desired, framed, other, weights={1: 0, 2: 10_000}, sticky=sticky)
    for user in ("ann", "bob", "ann", "bob", "ann"):
        assert (await router.infer(key, headers={"x-user": user})).status_code == 500
    assert (await router.infer(key)).status_code == 500
    await until(lambda: len(judge.batches) >= 2, "both strata")
    told = {batch.stratum: batch.candidate for batch in judge.batches}
    assert len(told[""].bad_keys) == len(set(told[""].bad_keys)) == judge.bad(2) - 1 == 2
    assert told["unkeyed"].bad_keys == []


async def test_a_change_of_the_route_parts_batches_and_each_tells_its_revision(
    router: RunningRouter, desired: Desired, framed: FramedHost, other: FramedHost, judge: Judge
) -> None:
    key = await rolling(router, desired, framed, other)
    await router.burst(key, 10, 2)
    await desired.route({1: 2500, 2: 7500}, rollout=ROLLOUT, revision=8)
    await until(lambda: router.app.deps.routes.find("demo", "m").versions[2].revision == 8, "the new route")
    await router.burst(key, 10, 2)
    await until(lambda: judge.requests(1) + judge.requests(2) == 20, "all of them")
    told = [
        (batch.revision, sum(host.requests for arm in (batch.stable, batch.candidate) for host in arm.hosts))
        for batch in judge.batches
    ]
    assert sorted(told) == [(7, 10), (8, 10)]


async def test_predictions_are_sampled_at_the_host(
    router: RunningRouter, desired: Desired, framed: FramedHost, other: FramedHost, judge: Judge
) -> None:
    async def answer(_host: FramedHost, call: object, writer: asyncio.StreamWriter) -> bool:
        asked = f"{host_calls.COMPACT}: {host_calls.FIRST}".encode() in call.head
        send(writer, plain(call, output=encode_output(Output(kind="class", value="cat")) if asked else b""))
        return True

    framed.on_call = other.on_call = answer
    key = await rolling(router, desired, framed, other)
    await router.burst(key, 40, 2)
    await until(lambda: judge.requests(1) + judge.requests(2) == 40, "all of them")
    told = [batch.predictions.classes for arms in judge.batches for batch in (arms.stable, arms.candidate)]
    assert sum(classes.get("cat", 0) for classes in told) == 40
