"""The judge's side of the stream SIGNALS, and a model with a rollout."""

from nats.js.api import ConsumerConfig, DeliverPolicy
from router_harness import Desired, FakeHost, RunningRouter, until

from moorage_common.bus import Bus
from moorage_common.contracts.routes import RouteRollout
from moorage_common.contracts.signals import ArmCounts, SignalBatch
from moorage_common.streams import ensure_signals

ROLLOUT = RouteRollout(id="r-1", stable=1, candidate=2, skip_first=0)


class Judge:
    """Reads the stream as the registry does."""

    def __init__(self) -> None:
        self.batches: list[SignalBatch] = []

    async def read(self, bus: Bus) -> None:
        await ensure_signals(bus)
        config = ConsumerConfig(deliver_policy=DeliverPolicy.ALL)
        reader = await bus.jetstream().subscribe("signals.>", config=config, ordered_consumer=True)
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
