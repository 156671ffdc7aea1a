"""The other side of a rollout: a scheduler that has all ready, and a router that tells of the traffic it is given.

Both speak to the registry over a real bus, in a thread of their own.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from moorage_common.bus import BUS_ERRORS, Bus
from moorage_common.contracts.desired import Desired, ReplicaStatus, Status, ValidationResult
from moorage_common.contracts.names import (
    BUCKET_DESIRED,
    BUCKET_ROUTES,
    BUCKET_STATUS,
    signals_subject,
)
from moorage_common.contracts.routes import Route
from moorage_common.contracts.signals import ArmCounts, HostCounts, SignalBatch, bucket_of
from moorage_common.contracts.versioned import Versioned
from moorage_common.kv import BucketReader, BucketWriter
from moorage_common.streams import ensure_signals
from moorage_common.testing.servers import wait_until

_EVERY_S = 0.02
_REQUESTS = 500
_TOOK_US = (900.0, 1000.0, 1100.0, 1300.0, 2000.0)


@dataclass
class Traffic:
    """How often versions fail, by (model, version); 0 where nothing is said."""

    bad_share: dict[tuple[str, int], float] = field(default_factory=dict)
    _owed: dict[tuple[str, int], float] = field(default_factory=dict)

    def counts(self, model: str, version: int, requests: int) -> ArmCounts:
        """What became of so many requests: the share that is bad, carried over where it is no whole number."""
        owed = self._owed.get((model, version), 0.0) + requests * self.bad_share.get((model, version), 0.0)
        bad = min(requests, int(owed))
        self._owed[model, version] = owed - bad
        slow: dict[int, int] = {}
        for number in range(requests):
            bucket = bucket_of(_TOOK_US[number % len(_TOOK_US)])
            slow[bucket] = slow.get(bucket, 0) + 1
        causes = {"5xx": bad} if bad else {}
        host = HostCounts(host=f"h{version}", requests=requests, bad=bad, causes=causes, slow=slow)
        return ArmCounts(version=version, hosts=[host] if requests else [])


class OtherSide:
    """Every replica that is wanted is ready at once, every validation passes, every route has plenty of traffic."""

    def __init__(self, url: str) -> None:
        self.traffic = Traffic()
        self.boot = f"b{time.time_ns()}"
        self._url = url
        self._routes: dict[str, Route] = {}
        self._seqs: dict[str, int] = {}
        self._versions: dict[str, int] = {}
        self._reports: asyncio.Queue[tuple[str, Status]] = asyncio.Queue()
        self._ready, self._loop = threading.Event(), asyncio.new_event_loop()
        self._done = asyncio.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()), daemon=True)

    def __enter__(self) -> "OtherSide":
        self._thread.start()
        wait_until(self._ready.is_set, timeout_s=10, what="the bus")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join(10)
        self._loop.close()

    async def _serve(self) -> None:
        bus = Bus(self._url, "other-side")
        await bus.start()
        await bus.wait(10)
        for bucket in (BUCKET_DESIRED, BUCKET_ROUTES, BUCKET_STATUS):
            await bus.bucket(bucket)
        await ensure_signals(bus)
        readers: list[Callable[[], Coroutine[Any, Any, None]]] = [
            BucketReader(bus, BUCKET_DESIRED, self._wanted).run,
            BucketReader(bus, BUCKET_ROUTES, self._routed).run,
            lambda: self._report(bus),
            lambda: self._send(bus),
        ]
        tasks = [asyncio.create_task(run()) for run in readers]
        self._ready.set()
        await self._done.wait()
        while pending := [task for task in tasks if not task.done()]:
            for task in pending:
                task.cancel()
            await asyncio.wait(pending, timeout=0.2)
        await bus.close()

    def _wanted(self, key: str, entry: Versioned) -> None:
        if entry.value is None:
            return
        wanted = Desired.model_validate(entry.value)
        replicas = [
            ReplicaStatus(host_id=f"{key}.{one.load.version}.{number}", version=one.load.version, state="ready")
            for one in wanted.versions
            for number in range(max(1, one.min_replicas))
        ]
        passed = [
            ValidationResult(run_id=run.run_id, version=run.load.version, state="passed") for run in wanted.validations
        ]
        status = Status(
            cluster=wanted.cluster, tenant=wanted.tenant, model=wanted.model, replicas=replicas, validations=passed
        )
        self._reports.put_nowait((key, status))

    def _routed(self, key: str, entry: Versioned) -> None:
        if entry.value is None:
            self._routes.pop(key, None)
        else:
            self._routes[key] = Route.model_validate(entry.value)

    async def _report(self, bus: Bus) -> None:
        async def source() -> dict[str, Versioned]:
            return {}

        writer = BucketWriter(bus, BUCKET_STATUS, "default", source, prefix="default.")
        while True:
            key, status = await self._reports.get()
            self._versions[key] = self._versions.get(key, time.time_ns()) + 1
            entry = Versioned(epoch=1, version=self._versions[key], value=status.model_dump(mode="json"))
            assert await writer.put(key, entry)

    async def _send(self, bus: Bus) -> None:
        while True:
            for route in list(self._routes.values()):
                if route.rollout is None:
                    continue
                batch = self._batch(route)
                with contextlib.suppress(*BUS_ERRORS):
                    await bus.jetstream().publish(
                        signals_subject(route.tenant, route.model), batch.model_dump_json().encode(),
                        headers={"Nats-Msg-Id": batch.batch_id},
                    )  # fmt: skip
            await asyncio.sleep(_EVERY_S)

    def _batch(self, route: Route) -> SignalBatch:
        rollout = route.rollout
        assert rollout is not None
        seq = self._seqs[rollout.id] = self._seqs.get(rollout.id, 0) + 1
        share = sum(arm.weight_bp for arm in route.arms if arm.version == rollout.candidate and arm.role != "shadow")
        to_candidate = _REQUESTS * share // 10_000
        now = time.time()
        return SignalBatch(
            router="played", boot=self.boot, seq=seq, tenant=route.tenant, model=route.model, rollout=rollout.id,
            revision=route.revision, opened_at=now - 1, closed_at=now,
            candidate=self.traffic.counts(route.model, rollout.candidate, to_candidate),
            stable=self.traffic.counts(route.model, rollout.stable, _REQUESTS - to_candidate),
        )  # fmt: skip
