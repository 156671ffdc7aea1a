"""What a router tells of a rollout's requests, on real NATS before replica hosts."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from framed_host import FramedHost, lose, never, plain, send
from nats.js.api import ConsumerConfig, DeliverPolicy, StorageType
from router_harness import BODY, Desired, FakeHost, RunningRouter, until

from moorage_common.contracts import names
from moorage_common.contracts.routes import RouteRollout
from moorage_common.contracts.signals import ArmCounts, SignalBatch

ROLLOUT = RouteRollout(id="r-1", stable=1, candidate=2, skip_first=0)


class Judge:
    """Reads the stream as the registry does."""

    def __init__(self) -> None:
        self.batches: list[SignalBatch] = []

    async def read(self, desired: Desired) -> None:
        await desired.bus.ensure_stream(names.STREAM_SIGNALS, ["signals.>"], 3600, StorageType.MEMORY)
        config = ConsumerConfig(deliver_policy=DeliverPolicy.ALL)
        reader = await desired.bus.jetstream().subscribe("signals.>", config=config, ordered_consumer=True)
        async for message in reader.messages:
            self.batches.append(SignalBatch.model_validate_json(message.data))

    def requests(self, version: int) -> int:
        return sum(host.requests for arm in self._arms(version) for host in arm.hosts)

    def bad(self, version: int) -> int:
        return sum(host.bad for arm in self._arms(version) for host in arm.hosts)

    def timed(self, version: int) -> int:
        return sum(sum(host.slow.values()) for arm in self._arms(version) for host in arm.hosts)

    def causes(self, version: int) -> dict[str, int]:
        causes: dict[str, int] = {}
        for arm in self._arms(version):
            for host in arm.hosts:
                for cause, count in host.causes.items():
                    causes[cause] = causes.get(cause, 0) + count
        return causes

    def _arms(self, version: int) -> list[ArmCounts]:
        return [arm for batch in self.batches for arm in (batch.candidate, batch.stable) if arm.version == version]


@pytest.fixture
async def judge(desired: Desired) -> AsyncIterator[Judge]:
    one = Judge()
    task = asyncio.create_task(one.read(desired))
    yield one
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def rolling(
    router: RunningRouter, desired: Desired, stable: FakeHost, candidate: FakeHost, **fields: object
) -> object:
    """A key for a model whose candidate (2) gets half of the requests."""
    key = await desired.key()
    await desired.limits(requests_per_s=100_000, burst=100_000, max_concurrent=1000)
    await desired.route(fields.pop("weights", {1: 5000, 2: 5000}), **{"rollout": ROLLOUT, **fields})
    await desired.host(stable, 1)
    await desired.host(candidate, 2)
    await router.knows(key, 1, 2)
    await until(lambda: router.app.deps.limits.tenants["demo"].limits.max_concurrent == 1000, "the limits")
    return key


async def test_every_request_of_a_rollout_is_told_once(
    router: RunningRouter, desired: Desired, framed: FramedHost, other: FramedHost, judge: Judge
) -> None:
    key = await rolling(router, desired, framed, other)
    answers = await router.burst(key, 1200, 8)
    assert {status for status, _ in answers} == {200}
    await until(lambda: judge.requests(1) + judge.requests(2) >= 1200, "all of them")
    assert (judge.requests(1), judge.requests(2)) == (len(framed.calls), len(other.calls))
    assert judge.bad(1) == judge.bad(2) == 0
    assert judge.timed(1) + judge.timed(2) == 1200
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
