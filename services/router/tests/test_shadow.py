"""Copies of requests: after the caller's answer, never billed, first to be left out, compared where both answered."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from framed_host import FramedHost, lose, never, plain, send
from prometheus_client import generate_latest
from router_harness import BODY, SIGNATURE, Desired, RunningRouter, until
from test_feature_join import online
from test_feature_join import proxy as proxy  # noqa: PLC0414 - a fixture
from test_kept_outputs import ASKS, until_kept
from test_signals import Judge
from test_signals import judge as judge  # noqa: PLC0414 - a fixture

from moorage_common.contracts import names
from moorage_common.contracts.feedback import Output, encode_output
from moorage_common.contracts.host_frames import Call
from moorage_common.contracts.routes import Arm, FeatureJoin, Route, RouteFeedback, RouteRollout, RouteVersion
from moorage_common.contracts.tensors import Signature, TensorSpec
from moorage_router.settings import RouterSettings
from moorage_router.shadow import AT_ONCE, COPIED_BYTES

STABLE = Arm(arm="v1", version=1, weight_bp=10_000)
SHADOW = Arm(arm="v2", version=2, weight_bp=10_000, role="shadow")
CLASSES = {1: Output(kind="class", value="yes"), 2: Output(kind="class", value="no")}


def route_of(*arms: Arm, formats: dict[int, str] | None = None, **fields: Any) -> Route:
    kinds = formats or {}
    specs = fields.pop("versions", None) or [
        RouteVersion.model_validate({"version": n, "format": kinds.get(n, "onnx"), "signature": SIGNATURE})
        for n in (1, 2)
    ]
    return Route(tenant="demo", model="m", revision=7, arms=list(arms), versions=specs, **fields)


def version_of(call: Call) -> int:
    return int(call.head.split(b"/versions/")[1].split(b"/")[0])


async def told(_host: FramedHost, call: Call, writer: asyncio.StreamWriter) -> bool:
    """Version 1 says yes and version 2 no."""
    output = encode_output(CLASSES[version_of(call)]) if ASKS in call.head else b""
    send(writer, plain(call, output=output))
    return True


async def shadowed(
    router: RunningRouter, desired: Desired, framed: FramedHost, other: FramedHost | None, route: Route | None = None
) -> Any:
    """A key for a model that `framed` serves as version 1, and whose requests `other` gets copies of, as version 2.

    The machine of the tests may be busy: that the loop is late is no reason here to leave copies out.
    """
    room = deps_of(router).shadows.room
    room._every_s, room._calm_at = 60, 0.0
    key = await desired.key()
    await desired.limits(requests_per_s=100_000, burst=100_000, max_concurrent=1000)
    await desired.put(names.BUCKET_ROUTES, "demo.m", route or route_of(STABLE, SHADOW))
    await desired.host(framed, 1)
    if other is not None:
        await desired.host(other, 2)
    await router.knows(key, 1, *([2] if other is not None else []))
    await until(lambda: deps_of(router).limits.tenants["demo"].limits.max_concurrent == 1000, "the limits")
    return key


def deps_of(router: RunningRouter) -> Any:
    assert router.app.deps is not None
    return router.app.deps


def series(router: RunningRouter, name: str, **labels: str) -> float:
    text = generate_latest(deps_of(router).metrics.registry).decode()
    rows = [line for line in text.splitlines() if line.startswith(f"moorage_router_shadow_{name}_total{{")]
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    return sum(float(row.rsplit(" ", 1)[1]) for row in rows if all(one in row for one in wanted))


async def asked_until(router: RunningRouter, key: Any, enough: Any, **fields: Any) -> list[Any]:
    """Ask until `enough` holds; every answer."""
    answers = []
    async with asyncio.timeout(20):
        while not enough():
            answers.append(await router.infer(key, **fields))
            assert answers[-1].status_code == 200
            await asyncio.sleep(0.01)
    return answers


async def test_a_shadow_gets_the_request_once_the_caller_is_answered_and_answers_nobody(
    router: RunningRouter, desired: Desired, framed: FramedHost, other: FramedHost
) -> None:
    framed.on_call = other.on_call = told
    key = await shadowed(router, desired, framed, other)
    answers = await asked_until(router, key, lambda: len(other.calls) >= 3)
    assert {version_of(call) for call in framed.calls} == {1}
    assert {version_of(call) for call in other.calls} == {2}
    assert {call.body for call in other.calls} == {BODY}
    assert {answer.headers["moorage-request-id"].split(".")[2] for answer in answers} == {"1"}
    await until(lambda: series(router, "compared", agrees="no") >= 3, "the comparison")
    assert series(router, "requests", outcome="ok", version="2") >= 3
    assert series(router, "requests", version="1") == 0
    assert series(router, "compared", agrees="yes") == 0
    assert series(router, "seconds", of="shadow") > 0 < series(router, "seconds", of="served")


async def test_a_copy_takes_no_quota(
    router: RunningRouter, desired: Desired, framed: FramedHost, other: FramedHost
) -> None:
    release = asyncio.Event()

    async def held(_host: FramedHost, call: Call, writer: asyncio.StreamWriter) -> bool:
        await release.wait()
        send(writer, plain(call))
        return True

    framed.on_call = held
    key = await shadowed(router, desired, framed, other)
    asking = asyncio.create_task(router.infer(key))
    await until(lambda: framed.calls, "the request")
    await desired.limits(requests_per_s=0, burst=1, max_concurrent=1000)
    await until(lambda: deps_of(router).limits.tenants["demo"].limits.burst == 1, "the limits")
    release.set()
    assert (await asking).status_code == 200
    await until(lambda: other.calls, "the copy, though nothing is left of the quota")


async def test_copies_are_on_no_bill(
    router: RunningRouter, desired: Desired, framed: FramedHost, other: FramedHost
) -> None:
    key = await shadowed(router, desired, framed, other)
    statuses = [(await router.infer(key)).status_code for _ in range(30)]
    assert set(statuses) == {200}
    await until(lambda: len(other.calls) == 30, "the copies")
    js = desired.bus.jetstream()
    rows: list[dict[str, Any]] = []
    async with asyncio.timeout(15):
        while sum(row["requests"] for row in rows) < 30:
            await asyncio.sleep(0.05)
            state = (await js.stream_info(names.STREAM_USAGE)).state
            chunks = [await js.get_msg(names.STREAM_USAGE, n) for n in range(1, state.last_seq + 1)]
            rows = [row for chunk in chunks for row in json.loads(chunk.data)["rows"]]
    assert {row["version"] for row in rows} == {1}
    assert sum(row["requests"] for row in rows) == 30
    stats = (await router.get("/v2/models/m/stats", key)).json()["model_stats"]
    assert {stat["version"]: stat["execution_count"] for stat in stats} == {"1": 30, "2": 0}


@pytest.mark.parametrize("fault", [never, lose, "broken"])
async def test_whatever_a_shadow_does_callers_are_answered_as_without_it(
    router: RunningRouter, desired: Desired, framed: FramedHost, other: FramedHost, fault: Any
) -> None:
    async def broken(_host: FramedHost, call: Call, writer: asyncio.StreamWriter) -> bool:
        send(writer, plain(call, status=500, body=b"x" * 50_000))
        return True

    other.on_call = broken if fault == "broken" else fault
    key = await shadowed(router, desired, framed, other)
    answers = await router.burst(key, 400, 8)
    assert {status for status, _ in answers} == {200}
    assert len({body for _, body in answers}) == 1
    room = deps_of(router).shadows.room
    assert room.copies <= AT_ONCE // 2
    if fault is never:
        await asked_until(
            router, key, lambda: room.copies == AT_ONCE // 2 and series(router, "shed", reason="busy") > 0
        )
    else:
        outcome = "lost" if fault is lose else "error"
        await asked_until(router, key, lambda: series(router, "requests", outcome=outcome) > 0)
        assert deps_of(router).routes.find("demo", "m").versions[2].replicas.ready, "a copy ejects no host"
        await until(lambda: room.copies == room.size == 0, "the end of the copies")


async def test_copies_are_late_at_the_deadline_and_are_not_made_again(
    router: RunningRouter, desired: Desired, framed: FramedHost, other: FramedHost
) -> None:
    other.on_call = never
    key = await shadowed(router, desired, framed, other, route_of(STABLE, SHADOW, deadline_ms=300))
    await asked_until(router, key, lambda: other.calls)
    made = len(other.calls)
    await until(lambda: series(router, "requests", outcome="late") == made, "the deadline")
    await until(lambda: deps_of(router).shadows.room.copies == 0, "the end")
    assert len(other.calls) == made


async def test_a_shadow_without_a_replica_is_not_woken(
    router: RunningRouter, desired: Desired, framed: FramedHost
) -> None:
    key = await shadowed(router, desired, framed, None)
    await asked_until(router, key, lambda: series(router, "shed", reason="no_replica") >= 3)
    replicas = deps_of(router).routes.find("demo", "m").versions[2].replicas
    assert deps_of(router).waker.ready_in_s(replicas) is None
    assert replicas.parked == replicas.requests == replicas.in_flight == 0


async def test_long_bodies_are_passed_on_and_not_copied(
    router: RunningRouter, desired: Desired, framed: FramedHost, other: FramedHost
) -> None:
    key = await shadowed(router, desired, framed, other)
    await asked_until(
        router, key, lambda: series(router, "shed", reason="size") >= 1, content=b"x" * (COPIED_BYTES + 1)
    )
    assert not other.calls


async def test_a_version_in_the_path_is_asked_alone(
    router: RunningRouter, desired: Desired, framed: FramedHost, other: FramedHost
) -> None:
    key = await shadowed(router, desired, framed, other)
    for _ in range(20):
        assert (await router.infer(key, path="/v2/models/m/versions/1/infer")).status_code == 200
    assert not other.calls
    assert series(router, "shed") == 0


async def test_a_request_whose_caller_goes_away_is_not_copied(
    router: RunningRouter, desired: Desired, framed: FramedHost, other: FramedHost
) -> None:
    framed.on_call = never
    key = await shadowed(router, desired, framed, other)
    room = deps_of(router).shadows.room
    async with asyncio.timeout(20):
        planned = 0
        while not planned:
            seen = len(framed.calls)
            asking = asyncio.create_task(router.infer(key))
            await until(lambda before=seen: len(framed.calls) > before, "the request")
            planned = room.copies
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
    await until(lambda: room.copies == 0, "the room")
    assert not other.calls


async def test_a_rollout_that_mirrors_counts_each_request_and_its_copy(
    router: RunningRouter, desired: Desired, framed: FramedHost, other: FramedHost, judge: Judge
) -> None:
    async def worse(_host: FramedHost, call: Call, writer: asyncio.StreamWriter) -> bool:
        send(writer, plain(call, status=500))
        return True

    other.on_call = worse
    candidate = Arm(arm="v2", version=2, weight_bp=0, role="candidate")
    rollout = RouteRollout(id="r-1", stable=1, candidate=2, skip_first=0)
    route = route_of(STABLE, candidate, SHADOW.model_copy(update={"arm": "v2-shadow"}), rollout=rollout)
    key = await shadowed(router, desired, framed, other, route)
    answers = await asked_until(router, key, lambda: len(other.calls) >= 20)

    def mirrored() -> list[Any]:
        return [batch for batch in judge.batches if batch.stratum == "shadow"]

    def requests(arm: str) -> int:
        return sum(host.requests for batch in mirrored() for host in getattr(batch, arm).hosts)

    await until(lambda: requests("candidate") >= len(other.calls), "the batches")
    assert requests("candidate") == requests("stable") == len(other.calls)
    assert sum(host.bad for batch in mirrored() for host in batch.candidate.hosts) == len(other.calls)
    assert sum(host.bad for batch in mirrored() for host in batch.stable.hosts) == 0
    plainly = [batch for batch in judge.batches if batch.stratum == ""]
    assert sum(host.requests for batch in plainly for host in batch.stable.hosts) == len(answers)


async def test_what_stable_answers_to_a_copy_of_the_candidates_request_is_kept_with_its_answer(
    router: RunningRouter, desired: Desired, framed: FramedHost, other: FramedHost
) -> None:
    framed.on_call = other.on_call = told
    rollout = RouteRollout(id="r-1", stable=1, candidate=2, paired_bp=10_000)
    arms = (Arm(arm="v1", version=1, weight_bp=0), Arm(arm="v2", version=2, weight_bp=10_000, role="candidate"))
    route = route_of(*arms, rollout=rollout, feedback=RouteFeedback())
    key = await shadowed(router, desired, framed, other, route)
    answers = await asked_until(router, key, lambda: len(framed.calls) >= 3)
    kept = {one.ulid: one for one in await until_kept(desired.bus, len(answers))}
    assert set(kept) == {answer.headers["moorage-request-id"][:26] for answer in answers}
    pairs = [one for one in kept.values() if one.other is not None]
    assert len(pairs) == len(framed.calls)
    assert {(one.version, one.output.value, one.other_version, one.other.value) for one in pairs if one.other} == {
        (2, "no", 1, "yes")
    }


FEATURED = Signature(
    inputs=[TensorSpec(name="mean", datatype="FP32", shape=[-1]), TensorSpec(name="peak", datatype="FP32", shape=[-1])],
    outputs=[],
)
ENTITY = b'{"inputs": [{"name": "sensor", "shape": [2], "datatype": "INT64", "data": [7, 8]}]}'


@pytest.fixture
async def joining(settings: RouterSettings, desired: Desired, proxy: Any) -> AsyncIterator[RunningRouter]:
    from router_harness import serving

    settings.feature_proxy_url = f"http://127.0.0.1:{proxy.port}"
    async with serving(settings) as router:
        yield router


async def test_a_shadow_that_joins_other_features_gets_its_own(
    joining: RunningRouter, desired: Desired, framed: FramedHost, other: FramedHost
) -> None:
    assert online is not None
    join = FeatureJoin(entities={"sensor_id": "sensor"}, deadline_ms=2000)
    joined = RouteVersion(
        version=2, format="onnx", signature=FEATURED, feature_service="sensors",
        features=["stats__mean", "stats__peak"],
    )  # fmt: skip
    without = RouteVersion(version=1, format="onnx", signature=SIGNATURE)
    route = route_of(STABLE, SHADOW, versions=[without, joined], features=join)
    key = await shadowed(joining, desired, framed, other, route)
    await asked_until(joining, key, lambda: other.calls, content=ENTITY)
    assert framed.calls[-1].body == ENTITY
    assert b"mean" in other.calls[0].body
    assert b"sensor" not in other.calls[0].body


async def test_a_full_copy_load_takes_no_callers_answer_away(
    router: RunningRouter, desired: Desired, framed: FramedHost, other: FramedHost
) -> None:
    key = await shadowed(router, desired, framed, other)
    began = time.monotonic()
    answers = await router.burst(key, 2000, 16)
    assert len(answers) == 2000
    assert {status for status, _ in answers} == {200}
    assert time.monotonic() - began < 60
    await until(lambda: deps_of(router).shadows.room.copies == 0, "the end")
    made, shed = series(router, "requests"), series(router, "shed")
    assert made + shed == 2000, "each is made, or counted as left out"
