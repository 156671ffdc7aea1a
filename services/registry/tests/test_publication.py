"""What routers and schedulers are told, and what schedulers tell, over a real bus."""

import asyncio
from typing import Any

import pytest

from moorage_common import api_keys
from moorage_common.bus import BUS_ERRORS, Bus
from moorage_common.contracts.desired import Desired, ReplicaStatus, Status, ValidationResult
from moorage_common.contracts.keys import KeyRecord, TenantLimits
from moorage_common.contracts.names import (
    BUCKET_DESIRED,
    BUCKET_KEYS,
    BUCKET_LIMITS,
    BUCKET_ROUTES,
    BUCKET_STATUS,
    TenantId,
    desired_key,
    route_key,
)
from moorage_common.contracts.routes import Route
from moorage_common.contracts.versioned import Versioned
from moorage_common.kv import BucketReader, BucketWriter
from moorage_registry.catalog.urls import DAY_S
from moorage_registry.publisher import Publisher
from moorage_registry.testing import Caller, Platform, eventually


class Watched:
    """A bucket as its readers see it, polled until something is so."""

    def __init__(self, bus: Bus, bucket: str) -> None:
        self.reader = BucketReader(bus, bucket, lambda _key, _entry: None)

    async def until(self, key: str, check: Any) -> Versioned:
        async def found() -> Versioned | None:
            entry = self.reader.entries.get(key)
            return entry if entry is not None and check(entry) else None

        entry: Versioned = await eventually(found)
        return entry


@pytest.fixture
async def watched(bus: Bus) -> Any:
    names = (BUCKET_KEYS, BUCKET_LIMITS, BUCKET_ROUTES, BUCKET_DESIRED)
    buckets = {name: Watched(bus, name) for name in names}
    tasks = [asyncio.create_task(bucket.reader.run()) for bucket in buckets.values()]
    yield buckets
    for task in tasks:
        task.cancel()
    while True:
        _, pending = await asyncio.wait(tasks, timeout=0.2)
        if not pending:
            break
        for task in pending:
            task.cancel()


class Scheduler:
    """Reports on one model as a scheduler does."""

    def __init__(self, bus: Bus, tenant: TenantId, model: str) -> None:
        self.key = desired_key("default", tenant, model)
        self.status = Status(cluster="default", tenant=tenant, model=model)
        self.version = 0

        async def source() -> dict[str, Versioned]:
            return {}

        self.writer = BucketWriter(bus, BUCKET_STATUS, "default", source, prefix="default.")
        self.bus = bus

    async def report(self, **changes: Any) -> None:
        self.version += 1
        self.status = self.status.model_copy(update=changes)
        entry = Versioned(epoch=1, version=self.version, value=self.status.model_dump(mode="json"))
        await self.bus.bucket(BUCKET_STATUS)
        assert await self.writer.put(self.key, entry)


async def event_types(caller: Caller) -> list[str]:
    text = (await caller.call("GET", "/v1/events?follow=false")).text
    return [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]


async def test_a_key_is_published_and_its_revocation_wins(demo: Caller, watched: dict[str, Watched]) -> None:
    other = await demo.with_key("infer:fraud-*")
    key = api_keys.parse(other.key)
    assert key is not None
    first = await watched[BUCKET_KEYS].until(key.kid, lambda e: True)
    record = KeyRecord.model_validate(first.value)
    assert (record.tenant, record.scopes, record.revoked) == (demo.tenant, ["infer:fraud-*"], False)
    assert key.secret not in first.model_dump_json()
    await demo.call("DELETE", f"/v1/keys/{key.kid}")
    after = await watched[BUCKET_KEYS].until(key.kid, lambda e: e.value["revoked"])
    assert after.order > first.order


async def test_limits_are_published(platform: Platform, demo: Caller, watched: dict[str, Watched]) -> None:
    await platform.operator.ok("PUT", f"/v1/tenants/{demo.tenant}/limits", json={"burst": 17})
    entry = await watched[BUCKET_LIMITS].until(demo.tenant, lambda e: e.value["burst"] == 17)
    assert TenantLimits.model_validate(entry.value).tenant == demo.tenant


async def shows_its_replica(demo: Caller) -> None:
    """Status, logs and metrics tell the tenant of its ready replica."""

    async def status() -> Any:
        found = await demo.ok("GET", "/v1/deployments/digits/status")
        return found if found["ready"] else None

    assert (await eventually(status))["ready"] == {"1": 1}
    assert (await demo.ok("GET", "/v1/deployments/digits/logs"))["lines"] == ["loaded digits"]
    metrics = (await demo.call("GET", "/v1/metrics")).text
    assert f'moorage_gpu_milli_held{{model="digits",tenant="{demo.tenant}",version="1"}} 500.0' in metrics


async def test_from_push_to_ready_to_routed_to_deleted(
    platform: Platform, demo: Caller, watched: dict[str, Watched], bus: Bus
) -> None:
    examples = await demo.upload(b'{"examples": []}')
    await demo.push("digits", b"one", examples_digest=examples)
    routes, desired = watched[BUCKET_ROUTES], watched[BUCKET_DESIRED]
    route_at, desired_at = route_key(demo.tenant, "digits"), desired_key("default", demo.tenant, "digits")

    asked = await desired.until(desired_at, lambda e: e.value is not None)
    (run,) = Desired.model_validate(asked.value).validations
    assert (run.load.version, run.load.artifact.size_bytes) == (1, 3)
    for reference, content in ((run.load.artifact, b"one"), (run.examples, b'{"examples": []}')):
        assert reference is not None
        assert (await platform.operator.http.get(reference.url)).content == content

    async def validating() -> bool:
        state: str = (await demo.ok("GET", "/v1/models/digits/versions/1"))["state"]
        return state == "validating"

    await eventually(validating)
    placed = {"version": "latest", "resources": {"gpu_milli": 500, "elastic_pct": 10}, "priority": 70, "pinned": True}
    placed["scaling"] = {"min": 1, "max": 2, "idle_s": 60}
    spec = {"versions": [{**placed, "scheduling_class": "scavenger"}]}
    await demo.ok("PUT", "/v1/deployments/digits", json=spec)
    early = Route.model_validate((await routes.until(route_at, lambda e: e.value is not None)).value)
    assert [(arm.version, arm.weight_bp) for arm in early.arms] == [(1, 10_000)]
    assert Desired.model_validate((await desired.until(desired_at, lambda e: True)).value).versions == []

    scheduler = Scheduler(bus, demo.tenant, "digits")
    passed = ValidationResult(run_id=run.run_id, version=1, state="passed", max_abs_diff=1e-6)
    await scheduler.report(validations=[passed])
    wanted = await desired.until(desired_at, lambda e: e.value is not None and e.value["versions"])
    now = Desired.model_validate(wanted.value)
    (version,) = now.versions
    assert (version.load.version, version.resources.gpu_milli, version.max_replicas) == (1, 500, 2)
    assert (version.resources.elastic_pct, version.idle_s, version.priority, version.pinned) == (10, 60, 70, True)
    assert version.scheduling_class == "scavenger"
    assert now.validations == []
    assert wanted.order > asked.order

    told = await demo.ok("GET", "/v1/models/digits/versions/1")
    assert (told["state"], told["validation"]["max_abs_diff"]) == ("ready", 1e-6)

    ready = ReplicaStatus(host_id="h1", version=1, state="ready", gpu_milli=500, devices=[0])
    await scheduler.report(replicas=[ready], log_lines=["loaded digits"])
    await shows_its_replica(demo)
    await scheduler.report(replicas=[ready.model_copy(update={"restarts": 1})])

    async def lost() -> bool:
        return (await event_types(demo)).count("replica.started") == 2

    await eventually(lost)

    assert (await demo.call("DELETE", "/v1/deployments/digits")).status_code == 204
    await routes.until(route_at, lambda e: e.value is None)
    await desired.until(desired_at, lambda e: e.value is None)
    await scheduler.report(replicas=[])
    assert await event_types(demo) == [
        "tenant.created", "key.created", "version.uploaded", "deployment.changed", "traffic.changed",
        "version.ready", "replica.started", "replica.lost", "replica.started", "deployment.deleted",
    ]  # fmt: skip


async def test_a_version_that_differs_is_rejected_with_how_much_and_gets_no_traffic(
    demo: Caller, watched: dict[str, Watched], bus: Bus
) -> None:
    await demo.push("digits", b"one")
    await demo.push("digits", b"two")
    at = desired_key("default", demo.tenant, "digits")
    asked = await watched[BUCKET_DESIRED].until(at, lambda e: len(e.value["validations"]) == 2)
    runs = {run.load.version: run.run_id for run in Desired.model_validate(asked.value).validations}
    traffic = [{"version": 1, "weight": 90}, {"version": 2, "weight": 10}]
    spec = {"versions": [{"version": 1}, {"version": 2}], "traffic": traffic}
    await demo.ok("PUT", "/v1/deployments/digits", json=spec)
    results = [
        ValidationResult(run_id=runs[1], version=1, state="unchecked"),
        ValidationResult(run_id=runs[2], version=2, state="rejected", reason="differs by 0.5", max_abs_diff=0.5),
    ]
    scheduler = Scheduler(bus, demo.tenant, "digits")
    await scheduler.report(validations=results)
    entry = await watched[BUCKET_ROUTES].until(
        route_key(demo.tenant, "digits"), lambda e: e.value is not None and len(e.value["versions"]) == 1
    )
    route = Route.model_validate(entry.value)
    assert [(arm.version, arm.weight_bp) for arm in route.arms] == [(1, 10_000)]
    assert route.cluster == "default", "whom routers wake"
    first, second = (await demo.ok("GET", "/v1/models/digits/versions"))["versions"]
    assert (first["state"], first["unchecked"]) == ("ready", True)
    assert (second["state"], second["reason"]) == ("rejected", "differs by 0.5")
    answer = await demo.call("PUT", "/v1/deployments/digits", json={"versions": [{"version": 2}]})
    assert (answer.status_code, answer.json()["code"]) == (409, "version_rejected")


async def test_a_result_counts_once_and_only_for_its_own_run(platform: Platform, demo: Caller) -> None:
    await demo.push("digits", b"one")
    reports = platform.registry.status
    foreign = ValidationResult(run_id="another", version=1, state="rejected", reason="not mine")
    status = Status(cluster="default", tenant=demo.tenant, model="digits", validations=[foreign])
    await reports.take_in(status)
    assert (await demo.ok("GET", "/v1/models/digits/versions/1"))["state"] in ("uploaded", "validating")
    await reports.take_in(Status(cluster="default", tenant="nobody", model="digits", validations=[foreign]))


async def test_urls_are_signed_anew_each_day_under_a_higher_order(platform: Platform, demo: Caller, bus: Bus) -> None:
    await demo.push("digits", b"one")
    registry = platform.registry
    now = registry.clock()
    at = desired_key("default", demo.tenant, "digits")

    async def desired_at(moment: float) -> Versioned:
        publisher = Publisher(registry.db, bus, lambda: moment, "default", registry.urls, epoch=1)
        return (await publisher.all_desired())[at]

    today, tonight = await desired_at(now), await desired_at(now - now % DAY_S + DAY_S - 1)
    tomorrow = await desired_at(now + DAY_S)
    assert today == tonight
    assert tomorrow.order > today.order
    assert tomorrow.value != today.value
    await demo.push("digits", b"two")
    assert (await desired_at(now)).order > tomorrow.order


async def test_a_bucket_that_was_wiped_is_written_whole_again(own_platform: Platform, own_bus: Bus) -> None:
    demo = await own_platform.tenant()
    bucket = Watched(own_bus, BUCKET_LIMITS)
    task = asyncio.create_task(bucket.reader.run())
    try:
        await bucket.until(demo.tenant, lambda e: True)
        await own_bus.jetstream().delete_key_value(BUCKET_LIMITS)

        async def back() -> bool:
            try:
                return (await (await own_bus.jetstream().key_value(BUCKET_LIMITS)).get(demo.tenant)).value is not None
            except BUS_ERRORS:
                return False

        await eventually(back)
    finally:
        task.cancel()
        await asyncio.wait([task])
