"""The scheduler as a process, with real NATS, Ray and replica hosts."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from scheduler_harness import (
    CLUSTER,
    DEADLINE_S,
    TENANT,
    Registry,
    Scheduler,
    infer,
    pid_of,
    registry_on,
    scheduler_process,
    until,
    wanted,
)

from moorage_common.bus import Bus
from moorage_common.contracts.answers import Explanation, Nodes
from moorage_common.contracts.cluster import SchedulerAnswer, SchedulerAsk, unpacked
from moorage_common.contracts.desired import (
    ArtifactRef,
    ValidationRun,
)
from moorage_common.contracts.endpoints import Endpoint
from moorage_common.contracts.load import LoadReport, VersionLoad, Wake, WakeAnswer
from moorage_common.contracts.names import desired_key, load_subject, scheduler_subject, wake_subject
from moorage_scheduler.replay import replay

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

Recorder = Callable[[str, object], None]
Cached = Callable[[bytes], ArtifactRef]


@pytest.fixture(scope="module")
def scheduler(nats_url: str, ray_address: str, cache_dir: Path) -> Iterator[Scheduler]:
    scheduler = scheduler_process(nats_url, ray_address, cache_dir)
    scheduler.start()
    yield scheduler
    scheduler.kill()


@pytest.fixture
async def registry(nats_url: str, scheduler: Scheduler) -> AsyncIterator[Registry]:
    """A registry of this test; what the test desired is deleted and gone when it ends."""
    async with registry_on(nats_url) as registry:
        yield registry


async def test_a_killed_host_is_back_on_its_gpu(
    registry: Registry, scheduler: Scheduler, artifact: ArtifactRef, record_property: Recorder
) -> None:
    await until(scheduler.ready, "ready scheduler")
    await registry.desire("twice", wanted("twice", artifact, replicas=2, gpu_milli=500))
    record_property("start_s", await until(lambda: len(registry.ready("twice")) == 2, "two ready replicas"))
    first, second = registry.ready("twice")
    assert {*first.devices, *second.devices} == {0, 1}, "replicas of one deployment share no device where avoidable"
    assert infer(first, "twice") == [3.0, 4.0]

    os.kill(pid_of(first), signal.SIGKILL)
    withdrawn_s = await until(lambda: first not in registry.endpoints.values(), "withdrawn endpoint")
    record_property("withdrawn_s", withdrawn_s)
    record_property("recovery_s", await until(lambda: len(registry.ready("twice")) == 2, "the host again"))
    again = next(e for e in registry.ready("twice") if e.host_id == first.host_id)
    assert again.devices == first.devices
    assert again.generation != first.generation
    assert infer(again, "twice") == [3.0, 4.0]
    await until(lambda: {r.host_id: r.restarts for r in registry.replicas("twice")}[first.host_id] == 1, "count")
    assert "moorage_scheduler_recovery_seconds_count 1.0" in scheduler.get("/metrics").text


async def test_a_killed_scheduler_adopts_what_runs_and_goes_on_caring_for_it(
    registry: Registry, scheduler: Scheduler, artifact: ArtifactRef, record_property: Recorder
) -> None:
    await registry.desire("kept", wanted("kept", artifact, gpu_milli=500))
    await until(lambda: registry.ready("kept"), "ready replica")
    (before,) = registry.ready("kept")
    (order,) = [order for key, order in registry.orders.items() if key.endswith(before.host_id)]
    scheduler.kill()
    assert infer(before, "kept") == [3.0, 4.0], "hosts go on without a scheduler"

    scheduler.start()
    taken_over_s = await until(
        lambda: registry.orders[f"{CLUSTER}.{before.host_id}"] > order, "endpoint of the new scheduler"
    )
    record_property("scheduler_back_s", taken_over_s)
    await until(scheduler.ready, "ready scheduler")
    assert registry.ready("kept") == [before]
    devices = [device for node in scheduler.get("/v1/placements").json()["nodes"] for device in node["devices"]]
    assert [replica["host_id"] for device in devices for replica in device["replicas"]] == [before.host_id]
    assert sorted(device["milli_free"] for device in devices) == [500, 1000]

    os.kill(pid_of(before), signal.SIGKILL)

    def again() -> list[Endpoint]:
        return [e for e in registry.ready("kept") if e.generation != before.generation]

    await until(again, "restart of an adopted host")
    assert [(e.host_id, e.devices) for e in again()] == [(before.host_id, before.devices)]


async def test_load_reported_by_routers_adds_replicas_up_to_the_maximum(
    registry: Registry, nats_url: str, artifact: ArtifactRef
) -> None:
    version = wanted("busy", artifact, gpu_milli=100).model_copy(update={"max_replicas": 2, "target_in_flight": 4})
    await registry.desire("busy", version)
    await until(lambda: len(registry.ready("busy")) == 1, "one replica")
    load = VersionLoad(tenant=TENANT, model="busy", version=1, in_flight=30)
    bus = Bus(nats_url, "router-0")
    await bus.start()
    await bus.wait(30)
    began = time.monotonic()
    while len(registry.ready("busy")) < 2:
        assert time.monotonic() - began < DEADLINE_S
        report = LoadReport(router="router-0", boot="b", at=time.time(), loads=[load])
        await bus.client.publish(load_subject("router-0"), report.model_dump_json().encode())
        await asyncio.sleep(0.2)
    await bus.close()
    assert len(registry.replicas("busy")) == 2


async def test_a_version_that_may_have_none_starts_when_it_is_woken_and_goes_after_its_idle_time(
    registry: Registry, scheduler: Scheduler, nats_url: str, artifact: ArtifactRef, record_property: Recorder
) -> None:
    version = wanted("sleepy", artifact, replicas=0, gpu_milli=100).model_copy(
        update={"max_replicas": 1, "idle_s": 2, "target_in_flight": 4}
    )
    await registry.desire("sleepy", version)
    await until(lambda: desired_key(CLUSTER, TENANT, "sleepy") in registry.statuses, "status")
    bus = Bus(nats_url, "router-0")
    await bus.start()
    await bus.wait(30)
    wake = Wake(tenant=TENANT, model="sleepy", version=1).model_dump_json().encode()

    async def ask() -> WakeAnswer:
        answer = await bus.client.request(wake_subject(CLUSTER), wake, timeout=5)
        return WakeAnswer.model_validate_json(answer.data)

    def report(queued: int) -> bytes:
        load = VersionLoad(tenant=TENANT, model="sleepy", version=1, in_flight=0, queued=queued)
        loads = [load] if queued else []
        return LoadReport(router="router-0", boot="b", at=time.time(), loads=loads).model_dump_json().encode()

    for turn in range(2):
        assert not registry.ready("sleepy")
        began = time.monotonic()
        answer = await ask()
        if turn:
            assert answer.ready_in_s is not None, "it has seen such a start"
            record_property("said_s", answer.ready_in_s)
        while not registry.ready("sleepy"):
            assert time.monotonic() - began < DEADLINE_S
            await bus.client.publish(load_subject("router-0"), report(queued=1))
            await asyncio.sleep(0.2)
        record_property(f"wake_{turn}_s", round(time.monotonic() - began, 2))
        began = time.monotonic()
        while registry.replicas("sleepy"):
            assert time.monotonic() - began < DEADLINE_S
            await bus.client.publish(load_subject("router-0"), report(queued=0))
            await asyncio.sleep(0.2)
    await bus.close()
    assert 'moorage_scheduler_start_seconds_count{format="onnx",kind="cold"}' in scheduler.get("/metrics").text


async def test_other_resources_replace_a_replica_without_a_gap(registry: Registry, artifact: ArtifactRef) -> None:
    await registry.desire("moved", wanted("moved", artifact, gpu_milli=100))
    await until(lambda: registry.ready("moved"), "replica")
    (old,) = registry.ready("moved")
    await registry.desire("moved", wanted("moved", artifact, gpu_milli=400))
    gaps: list[bool] = []

    def replaced() -> bool:
        gaps.append(not registry.ready("moved"))
        return [r.gpu_milli for r in registry.replicas("moved")] == [400] and old not in registry.endpoints.values()

    await until(replaced, "replacement")
    assert not any(gaps)


async def asked(nats_url: str, **question: object) -> dict[str, object]:
    """What the leading scheduler answers."""
    bus = Bus(nats_url, "asker")
    await bus.start()
    await bus.wait(10)
    ask = SchedulerAsk.model_validate(question)
    message = await bus.client.request(scheduler_subject(CLUSTER), ask.model_dump_json().encode(), 10)
    await bus.close()
    answer = SchedulerAnswer.model_validate_json(message.data)
    assert not answer.error
    return answer.answer if not answer.packed else unpacked([answer.packed], 1 << 30)


async def test_what_does_not_fit_waits_with_a_reason_and_starts_when_there_is_room(
    registry: Registry, scheduler: Scheduler, artifact: ArtifactRef, nats_url: str
) -> None:
    await registry.desire("large", wanted("large", artifact, gpu_milli=1000, devices=2))
    await until(lambda: registry.ready("large"), "replica of two devices")
    assert registry.ready("large")[0].devices == [0, 1]
    await registry.desire("late", wanted("late", artifact, gpu_milli=250))
    await until(lambda: [r.state for r in registry.replicas("late")] == ["pending"], "queued replica")
    assert "250 milli" in registry.replicas("late")[0].reason
    assert "moorage_scheduler_queued 1.0" in scheduler.get("/metrics").text
    explained = Explanation.model_validate(await asked(nats_url, what="explain", tenant=TENANT, model="late"))
    assert [(one.filter, one.nodes) for one in explained.versions[0].removed] == [("gpu_room", 1)]
    (node,) = Nodes.model_validate(await asked(nats_url, what="nodes")).nodes
    assert [[seat.model for seat in device.seats] for device in node.devices] == [["large"], ["large"]]
    decisions = replay(await asked(nats_url, what="state"))["decisions"]
    assert decisions[-1]["recorded"].startswith("queue: ")
    assert all(decision["same"] for decision in decisions)
    await registry.desire("large")
    await until(lambda: registry.ready("late"), "start after room")


async def test_removed_versions_drain_before_they_stop(registry: Registry, artifact: ArtifactRef) -> None:
    await registry.desire("gone", wanted("gone", artifact))
    await until(lambda: registry.ready("gone"), "replica without GPU")
    (endpoint,) = registry.ready("gone")
    assert endpoint.devices == []
    await registry.desire("gone")
    await until(lambda: not registry.ready("gone"), "draining endpoint")
    (leaving,) = registry.endpoints.values()
    assert [v.state for v in leaving.versions] == ["draining"]
    assert infer(endpoint, "gone") == [3.0, 4.0], "it answers while routers leave"
    await until(lambda: not registry.endpoints, "removal")


async def test_a_version_that_cannot_load_fails_with_its_reason_and_is_not_tried_again(
    registry: Registry, scheduler: Scheduler, cached: Cached, artifact: ArtifactRef
) -> None:
    broken = cached(b"not a network")
    await registry.desire("broken", wanted("broken", broken, gpu_milli=100))
    await until(lambda: [r.state for r in registry.replicas("broken")] == ["failed"], "failure")
    (failed,) = registry.replicas("broken")
    assert failed.reason
    await until(lambda: "failed to load" in logged(registry, "broken"), "the host's last log lines")
    before = scheduler.placed()
    await until(lambda: not registry.endpoints, "host removed")
    await registry.desire("other", wanted("other", artifact))
    await until(lambda: registry.ready("other"), "another model unharmed")
    assert scheduler.placed() == before + 1


def logged(registry: Registry, model: str) -> str:
    return "\n".join(registry.statuses[desired_key(CLUSTER, TENANT, model)].log_lines)


async def test_a_version_whose_host_dies_three_times_without_lasting_fails(
    registry: Registry, artifact: ArtifactRef
) -> None:
    await registry.desire("fragile", wanted("fragile", artifact, gpu_milli=100))
    seen: set[str] = set()
    for _death in range(3):
        await until(lambda: any(e.generation not in seen for e in registry.ready("fragile")), "process")
        (endpoint,) = registry.ready("fragile")
        seen.add(endpoint.generation)
        os.kill(pid_of(endpoint), signal.SIGKILL)
    await until(lambda: [r.state for r in registry.replicas("fragile")] == ["failed"], "given up")
    (failed,) = registry.replicas("fragile")
    assert "died 3 times in a row" in failed.reason


async def test_a_version_is_validated_on_a_warm_host_until_nobody_asks(
    registry: Registry, cached: Cached, artifact: ArtifactRef, record_property: Recorder
) -> None:
    load = wanted("checked", artifact).load
    await registry.desire("checked", validations=[ValidationRun(run_id="one", load=load)])
    first_s = await until(lambda: results(registry, "checked") == {"one": "unchecked"}, "validation")
    broken = wanted("checked", cached(b"neither"), version=2).load
    runs = [ValidationRun(run_id="two", load=load), ValidationRun(run_id="three", load=broken)]
    await registry.desire("checked", validations=runs)
    warm_s = await until(lambda: results(registry, "checked") == {"two": "unchecked", "three": "rejected"}, "more")
    record_property("validation_s", first_s)
    record_property("two_warm_validations_s", warm_s)
    status = registry.statuses[desired_key(CLUSTER, TENANT, "checked")]
    assert all(result.reason for result in status.validations if result.state == "rejected")
    assert not registry.endpoints, "a validation host serves nobody"


def results(registry: Registry, model: str) -> dict[str, str]:
    status = registry.statuses.get(desired_key(CLUSTER, TENANT, model))
    return {r.run_id: r.state for r in status.validations} if status is not None else {}
