"""A closed loop: so many connections, each sending its next request when the last one is answered."""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from moorage_sdk.bench.connection import Connection, Target
from moorage_sdk.bench.statistics import Observed
from moorage_sdk.errors import SdkError

Tick = Callable[[Observed], None]
"""Is shown what has been observed so far, a few times a second."""

GRACE_S = 30.0
"""How long what is in flight at a step's end may take."""
_TICK_S = 0.25
_PAUSE_MAX_S = 1.0
"""A refusal's Retry-After is kept up to this, so that a step ends in its time."""
_RECONNECT_S = 0.1


@dataclass(frozen=True, slots=True)
class Bounds:
    """When a step ends: after `seconds`, or before that after `requests`."""

    seconds: float
    requests: int | None = None


class _Step:
    def __init__(self, target: Target, connections: int, bounds: Bounds) -> None:
        self._target = target
        self._left: Iterator[int] = itertools.count() if bounds.requests is None else iter(range(bounds.requests))
        self._begun = time.perf_counter()
        self._end = self._begun + bounds.seconds
        self.observed = Observed(connections)

    @property
    def _remaining_s(self) -> float:
        return self._end - time.perf_counter()

    async def worker(self, connection: Connection) -> None:
        """One connection, renewed when it breaks."""
        try:
            while self._remaining_s > 0 and next(self._left, None) is not None:
                try:
                    if not connection.is_open:
                        connection = await Connection.connect(self._target)
                    await self._ask(connection)
                except OSError:
                    self.observed.errors["connection"] += 1
                    await self._pause(_RECONNECT_S)
        finally:
            connection.close()

    async def _ask(self, connection: Connection) -> None:
        observed, begun = self.observed, time.perf_counter()
        try:
            outcome = await connection.ask(self._target.request)
        except asyncio.CancelledError:
            observed.errors["unfinished"] += 1
            raise
        ended = time.perf_counter()
        observed.seconds = ended - self._begun
        if outcome.status == 200:
            observed.latencies_s.append(ended - begun)
            observed.versions[outcome.version] += 1
            return
        observed.errors[f"{outcome.status} {outcome.code}"] += 1
        if outcome.retry_after_s is not None:
            await self._pause(min(outcome.retry_after_s, _PAUSE_MAX_S))

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, min(seconds, self._remaining_s)))

    async def watch(self, tick: Tick) -> None:
        while self._remaining_s > 0:
            await asyncio.sleep(_TICK_S)
            tick(self.observed)


async def _run(target: Target, connections: int, bounds: Bounds, tick: Tick) -> Observed:
    try:
        opened = await asyncio.gather(*(Connection.connect(target) for _ in range(connections)))
    except OSError as error:
        raise SdkError(f"{target.host}:{target.port} took no {connections} connections: {error}") from error
    step = _Step(target, connections, bounds)
    watching = asyncio.create_task(step.watch(tick))
    workers = [asyncio.create_task(step.worker(connection)) for connection in opened]
    _, unfinished = await asyncio.wait(workers, timeout=bounds.seconds + GRACE_S)
    for task in [*unfinished, watching]:
        task.cancel()
    await asyncio.gather(*workers, watching, return_exceptions=True)
    return step.observed


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def run_step(target: Target, connections: int, bounds: Bounds, tick: Tick) -> Observed:
    """Drive `target` over `connections` connections until a bound is met.

    Raises:
        SdkError: it cannot be connected to.
    """
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        return runner.run(_run(target, connections, bounds, tick))
