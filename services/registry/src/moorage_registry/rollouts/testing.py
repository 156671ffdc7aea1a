"""The world around a rollout, played by a test over the real bus: its scheduler's reports and its routers' batches."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
from sqlalchemy import select

from moorage_common.bus import Bus
from moorage_common.contracts.desired import ReplicaStatus, Status, ValidationResult
from moorage_common.contracts.names import BUCKET_STATUS, desired_key, signals_subject
from moorage_common.contracts.signals import SAMPLED, ArmCounts, HostCounts, Predictions, SignalBatch, bucket_of
from moorage_common.contracts.versioned import Versioned
from moorage_common.db import Database
from moorage_common.kv import BucketWriter
from moorage_common.streams import ensure_signals
from moorage_registry.catalog.tables import VersionRow
from moorage_registry.rollouts.moves import LEAVES_AFTER_S
from moorage_registry.rollouts.tables import RolloutRow
from moorage_registry.testing import Caller, Json, eventually

MODEL = "digits"
PATH = f"/v1/deployments/{MODEL}/rollouts"
OFF = {"on": False}
QUICK: Json = {
    "steps": [{"weight": 20, "at_least_s": 0}, {"weight": 50, "at_least_s": 0}],
    "latency": OFF,
    "drift": OFF,
    "quality": OFF,
    "guard": {"for_s": 0.5, "holdback": 5},
    "baseline_requests": 500,
    "candidate_hosts": 1,
}
"""A policy that a test has time for: errors alone, by the default margin."""


BUCKETS = 40


@dataclass
class Router:
    """What one router process has sent of one rollout."""

    name: str = "r1"
    boot: str = "b1"
    seq: int = 0


@dataclass
class Stage:
    """A tenant's model with versions, replicas that are reported, and requests that are told in batches.

    It knows the registry by HTTP and by its database alone, so the registry may be a process that is killed.
    """

    db: Database
    bus: Bus
    demo: Caller
    model: str = MODEL
    reports: int = 0
    replicas: list[ReplicaStatus] = field(default_factory=list)
    validations: list[ValidationResult] = field(default_factory=list)
    _writer: BucketWriter = field(init=False)

    def __post_init__(self) -> None:
        async def nothing() -> dict[str, Versioned]:
            return {}

        self._writer = BucketWriter(self.bus, BUCKET_STATUS, "default", nothing, prefix="default.")

    @property
    def path(self) -> str:
        return f"/v1/deployments/{self.model}/rollouts"

    async def push(self, *contents: bytes, valid: bool = True) -> None:
        """Versions, validated by the cluster unless not `valid`."""
        for content in contents:
            version = await self.demo.push(self.model, content)
            if valid:
                await self.settle(version["version"], "passed")

    async def settle(self, version: int, state: str, reason: str = "") -> None:
        """What came of the version's validation."""
        async with self.db.read() as session:
            query = select(VersionRow.run_id).where(VersionRow.tenant == self.demo.tenant)
            run = await session.scalar(query.where(VersionRow.model == self.model, VersionRow.number == version))
        result = ValidationResult.model_validate({"run_id": run, "version": version, "state": state, "reason": reason})
        self.validations.append(result)
        await self._report()
        path = f"/v1/models/{self.model}/versions/{version}"

        async def settled() -> bool:
            return (await self.demo.ok("GET", path))["state"] in ("ready", "rejected")

        await eventually(settled)

    async def deploy(self, version: int = 1, **more: Any) -> None:
        """The version alone, two of its replicas ready."""
        spec = {"versions": [{"version": version, "scaling": {"min": 1, "max": 4}}], **more}
        await self.demo.ok("PUT", f"/v1/deployments/{self.model}", json=spec)
        await self.report(*ready(version, 2))

    async def report(self, *replicas: ReplicaStatus) -> None:
        """The scheduler's report from now on, as the registry has read it."""
        self.replicas = list(replicas)
        await self._report()
        told = [one.model_dump(mode="json") for one in replicas]

        async def read() -> bool:
            found = await self.demo.ok("GET", f"/v1/deployments/{self.model}/status")
            return bool(found["replicas"] == told)

        await eventually(read)

    async def _report(self) -> None:
        self.reports += 1
        status = Status(
            cluster="default",
            tenant=self.demo.tenant,
            model=self.model,
            replicas=self.replicas,
            validations=self.validations,
        )
        entry = Versioned(epoch=1, version=self.reports, value=status.model_dump(mode="json"))
        key = desired_key("default", self.demo.tenant, self.model)
        await self.bus.bucket(BUCKET_STATUS)
        assert await self._writer.put(key, entry)  # noqa: S101

    async def start(self, to: int = 2, **policy: Any) -> Json:
        """A rollout by the quick policy with these changes."""
        started: Json = await self.demo.ok("POST", self.path, json={"to": to, "policy": {**QUICK, **policy}})
        return started

    async def rollout(self, which: str = "current") -> Json:
        found: Json = await self.demo.ok("GET", f"{self.path}/{which}")
        return found

    async def until(self, *states: str, timeout_s: float = 30.0) -> Json:
        """The rollout once it is in one of these states."""

        async def arrived() -> Json | None:
            now = await self.rollout()
            return now if now["state"] in states else None

        found: Json = await eventually(arrived, timeout_s)
        return found

    async def let_leave(self, winner: int) -> None:
        """Have the time pass in which what ran goes on after the end; then the deployment holds the winner alone."""
        async with self.db.write() as session:
            query = select(RolloutRow).where(RolloutRow.tenant == self.demo.tenant, RolloutRow.model == self.model)
            row = (await session.scalars(query.order_by(RolloutRow.id.desc()))).first()
            assert row is not None and row.finished_at is not None  # noqa: S101, PT018
            assert row.leaves_at == row.finished_at + LEAVES_AFTER_S  # noqa: S101
            row.leaves_at = row.finished_at

        async def left() -> bool:
            held = await self.demo.ok("GET", f"/v1/deployments/{self.model}")
            return [one["version"] for one in held["versions"]] == [winner]

        await eventually(left)

    async def send(
        self, rollout: Json, router: Router, candidate: tuple[int, int], stable: tuple[int, int], /, **more: Any
    ) -> SignalBatch:
        """One batch: requests and bad ones of both."""
        router.seq += 1
        batch = SignalBatch.model_validate(
            {
                "router": router.name,
                "boot": router.boot,
                "seq": router.seq,
                "tenant": self.demo.tenant,
                "model": self.model,
                "rollout": rollout["id"],
                "revision": 1,
                "opened_at": 0.0,
                "closed_at": 1.0,
                "candidate": _arm(rollout["candidate"], *candidate),
                "stable": _arm(rollout["stable"], *stable),
                **more,
            }
        )
        await self.publish(batch)
        return batch

    async def publish(self, batch: SignalBatch) -> None:
        await ensure_signals(self.bus)
        subject = signals_subject(batch.tenant, batch.model)
        await self.bus.jetstream().publish(subject, batch.model_dump_json().encode())

    async def kinds(self, which: str = "current") -> list[str]:
        """The verdicts so far; their chain must be whole."""
        found = await self.demo.ok("GET", f"{self.path}/{which}/verdicts")
        assert found["intact"], found  # noqa: S101
        return [one["kind"] for one in found["verdicts"]]

    @contextlib.asynccontextmanager
    async def traffic(
        self, rollout: Json, *, bad: float = 0.0, router: Router | None = None, each_s: float = 0.05
    ) -> AsyncIterator[Router]:
        """Batches of 400 requests until the block ends, shared by the rollout's weight.

        Args:
            bad: share of the candidate's requests that fail; of stable's, none do.
        """
        sender, is_over = router or Router(), False

        async def drive() -> None:
            weight = float(rollout["weight"])
            while not is_over:
                # As routers do, by what was last heard where the registry is away.
                with contextlib.suppress(httpx.TransportError):
                    weight = (await self.rollout(rollout["id"]))["weight"]
                asked = round(4 * weight)
                await self.send(rollout, sender, (asked, round(asked * bad)), (400 - asked, 0))
                await asyncio.sleep(each_s)

        task = asyncio.create_task(drive())
        try:
            yield sender
        finally:
            is_over = True  # told, not cancelled: asyncio.wait_for, which NATS's client uses, may swallow that
            await task


def ready(version: int, count: int = 1, **more: Any) -> list[ReplicaStatus]:
    """Replicas of a version that answer."""
    return [replica(version, f"v{version}-{number}", "ready", **more) for number in range(count)]


async def both_ready(stage: Stage) -> None:
    """Two replicas of version 1 and two of version 2 answer."""
    await stage.report(*ready(1, 2), *ready(2, 2))


def replica(version: int, host: str, state: str, **more: Any) -> ReplicaStatus:
    return ReplicaStatus.model_validate({"host_id": host, "version": version, "state": state, **more})


def _arm(version: int, requests: int, bad: int) -> ArmCounts:
    """Requests of one host: 4 to 9 ms each, two classes answered, the same whichever version."""
    if not requests:
        return ArmCounts(version=version)
    fastest = bucket_of(4000.0)
    slow = {fastest + number: (requests + number) // BUCKETS for number in range(BUCKETS)}
    causes = {"500": bad} if bad else {}
    host = HostCounts(host=f"h{version}", requests=requests, bad=bad, causes=causes, slow=slow)
    sampled = min(requests, SAMPLED)
    classes = {"cat": sampled - sampled // 4, "dog": sampled // 4}
    return ArmCounts(version=version, hosts=[host], predictions=Predictions(classes=classes))
