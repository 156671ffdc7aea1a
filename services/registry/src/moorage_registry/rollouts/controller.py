"""What moves rollouts: of all registries the one that holds the lease reads the routers' batches and looks each second.

A batch is judged as it comes, and one that carries a signal over its threshold is acted on at once. All that is known
is in rows: who takes over folds them again, reads the stream from its start, and goes on with the same bits.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import structlog

from moorage_common.contracts.names import TenantId
from moorage_common.contracts.signals import SignalBatch
from moorage_common.db import Database
from moorage_registry.metrics import RolloutMetrics
from moorage_registry.rollouts.intake import Intake
from moorage_registry.rollouts.lease import RENEW_S, LeaseLost
from moorage_registry.rollouts.look import Looks, Stale
from moorage_registry.rollouts.repository import RolloutRepository
from moorage_registry.rollouts.tables import RolloutRow
from moorage_registry.rollouts.watch import Watch, catch_up, load

log = structlog.get_logger()

LOOK_EACH_S = 1.0
LONG_LOG = 20_000
"""Entries; a longer one is read beside everything else, one at a time, so that no rollout waits for another's."""
ENTRIES_KEPT_S = 30 * 86_400.0
_PURGE_EACH_S = 3600.0
_AT_ONCE = 4
_EARLY_MOST = 4096
_OF_NONE_MOST = 256
_CLOSE_S = 2.0
_TRY_AGAIN_ROUNDS = 30


@dataclass
class Controller:
    """Holds the rollouts of all tenants while this registry has the lease, and none otherwise."""

    db: Database
    looks: Looks
    put_route: Callable[[TenantId, str], Awaitable[bool]]
    metrics: RolloutMetrics
    watches: dict[str, Watch] = field(default_factory=dict)
    _early: deque[tuple[int, SignalBatch]] = field(default_factory=lambda: deque(maxlen=_EARLY_MOST))
    _of_none: deque[str] = field(default_factory=lambda: deque(maxlen=_OF_NONE_MOST))
    long_log: int = LONG_LOG
    _long: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    """Of rollouts whose log is being read beside the others."""
    _turn_of_long: asyncio.Lock = field(default_factory=asyncio.Lock)
    _not_before: dict[str, int] = field(default_factory=dict)
    _rounds: int = 0
    _awake: asyncio.Event = field(default_factory=asyncio.Event)
    _urgent: set[asyncio.Task[None]] = field(default_factory=set)
    _term: int | None = None
    _wanted: bool = False
    intake: Intake = field(init=False)

    def __post_init__(self) -> None:
        self.intake = Intake(self.looks.bus, self.take)

    def tasks(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """What must run for as long as the registry does, by name."""
        return {
            "rollouts": self.run,
            "rollouts-lease": self._keep_lease,
            "rollouts-signals": self.intake.run,
            "rollouts-skew": self.looks.skew.run,
            "rollouts-forget": self._forget_each_hour,
        }

    def wake(self) -> None:
        """There is something new to look at."""
        self._awake.set()

    async def run(self) -> None:
        """Look at all rollouts each second, until cancelled."""
        while True:
            self._awake.clear()
            await self._round()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EACH_S):
                    await self._awake.wait()

    async def close(self) -> None:
        """Let another registry go on at once."""
        self._wanted, under_way = False, set(self._long.values())
        self._drop()
        if self._urgent | under_way:
            # Inside a transaction, which is left to end.
            await asyncio.wait(self._urgent | under_way, timeout=_CLOSE_S)
        await self.looks.lease.release()

    def take(self, batch: SignalBatch) -> None:
        """A batch from the stream, in its order."""
        watch = self.watches.get(batch.rollout)
        if watch is None:
            self._keep_early(batch)
            return
        missing = watch.missing
        self.metrics.batches.labels(watch.offer(batch)).inc()
        self.metrics.missing.inc(watch.missing - missing)
        try:
            is_urgent = watch.drain(self.looks.clock())
        except Exception:
            # What is half judged is judged anew from the rows, without that batch.
            self.metrics.failures.inc()
            log.exception("a batch could not be judged", batch=batch.batch_id, model=batch.model)
            self.watches.pop(batch.rollout, None)
            return
        if is_urgent:
            task = asyncio.create_task(self._look(watch))
            self._urgent.add(task)
            task.add_done_callback(self._urgent.discard)

    def _keep_early(self, batch: SignalBatch) -> None:
        """Of a rollout that has just started, or of none that runs: the next look at the rows tells."""
        if batch.rollout in self._long:
            return
        if batch.rollout in self._of_none:
            self.metrics.batches.labels("of_none").inc()
            return
        self._early.append((self._rounds, batch))
        self.wake()

    async def _round(self) -> None:
        self._rounds += 1
        async with self.db.read() as session:
            rows = await RolloutRepository(session).moving()
        running = [row for row in rows if row.finished_at is None]
        self.metrics.running.set(len(running))
        lease = self.looks.lease
        self._wanted = bool(rows)
        if not rows:
            self._drop()
            await lease.release()
            return
        if lease.fencing is None and not await lease.keep():
            self._drop()
            return
        if self._term != lease.fencing:
            self._drop()
            self._term = lease.fencing
            log.info("rollouts are moved here", fencing=lease.fencing, rollouts=len(running))
        self.metrics.leads.set(1)
        await self._follow(running)
        self.intake.wanted.set()
        gate = asyncio.Semaphore(_AT_ONCE)
        await asyncio.gather(*(self._look(watch, gate) for watch in list(self.watches.values())))
        await self._end_leaving(rows)

    async def _follow(self, running: Sequence[RolloutRow]) -> None:
        """Hold those that run, as they are in the database."""
        for gone in self.watches.keys() - {row.id for row in running}:
            del self.watches[gone]
        self._not_before = {one: until for one, until in self._not_before.items() if until > self._rounds}
        loaded = {}
        for row in running:
            watch = self.watches.get(row.id)
            try:
                if watch is None and self._may_be_read(row):
                    if row.seq > self.long_log:
                        self._long[row.id] = asyncio.create_task(self._read_long(row), name="rollout-log")
                        continue
                    async with self.db.read() as session:
                        loaded[row.id] = await load(session, row, [])
                elif watch is not None and not watch.busy and watch.is_behind(row):
                    await self._refresh(watch)
            except Exception:
                log.exception("a rollout could not be read", rollout=row.id, model=row.model)
                self._put_off(row)
        # At once with what came before them, so that no later batch of a router overtakes.
        self.watches |= loaded
        self._take_early()

    def _may_be_read(self, row: RolloutRow) -> bool:
        return row.id not in self._long and self._not_before.get(row.id, 0) <= self._rounds

    def _put_off(self, row: RolloutRow) -> None:
        """One that cannot be read is no reason to leave the others alone; people may still end it."""
        self._not_before[row.id] = self._rounds + _TRY_AGAIN_ROUNDS
        self.watches.pop(row.id, None)
        self.metrics.failures.inc()

    async def _read_long(self, row: RolloutRow) -> None:
        """Read a long log while the other rollouts go on. Its batches meanwhile are read again from the stream."""
        task = asyncio.current_task()

        def goes_on() -> bool:
            return self._long.get(row.id) is task

        try:
            async with self._turn_of_long, self.db.read() as session:
                watch = await load(session, row, [], goes_on)
            if goes_on():
                self.watches[row.id] = watch
                self.intake.restart()
                self.wake()
        except Exception:
            log.exception("a rollout could not be read", rollout=row.id, model=row.model)
            self._put_off(row)
        finally:
            if goes_on():
                del self._long[row.id]

    async def _refresh(self, watch: Watch) -> None:
        """Another moved it: take in what it wrote. What was judged ahead of it is judged again, in the log's order."""
        watch.busy = True
        try:
            async with self.db.read() as session:
                row = await RolloutRepository(session).get(watch.tenant, watch.row.model, watch.row.id)
                if row is None:
                    return
                if row.seq == watch.seq:
                    watch.row = row
                elif not watch.pending:
                    await catch_up(session, watch, row)
                else:
                    ahead = [seen.entry.batch for seen in watch.pending if seen.entry.kind == "batch"]
                    again = await load(session, row, ahead)
                    for batch in watch.inbox:
                        again.offer(batch)
                    if self.watches.get(row.id) is watch:
                        self.watches[row.id] = again
        finally:
            watch.busy = False

    def _take_early(self) -> None:
        """Batches that came before their rollout was known; of none are those that the rows knew nothing of since."""
        early, self._early = self._early, deque(maxlen=_EARLY_MOST)
        for came_in, batch in early:
            if batch.rollout in self.watches:
                self.take(batch)
            elif batch.rollout in self._long:
                continue
            elif came_in == self._rounds:
                self._early.append((came_in, batch))
            else:
                self.metrics.batches.labels("of_none").inc()
                if batch.rollout not in self._of_none:
                    self._of_none.append(batch.rollout)

    async def _look(self, watch: Watch, gate: asyncio.Semaphore | None = None) -> None:
        """Look, and once more where something crossed meanwhile."""
        async with gate or contextlib.nullcontext():
            if watch.busy:
                watch.again = True
                return
            watch.again = True
            while watch.again and self.watches.get(watch.row.id) is watch and not watch.is_over:
                watch.again = False
                await self._look_once(watch)

    async def _look_once(self, watch: Watch) -> None:
        began = time.perf_counter()
        try:
            watch.drain(self.looks.clock())
            watch.busy = True
            outcome = await self.looks.look(watch)
        except LeaseLost:
            log.warning("another registry moves rollouts now")
            self._drop()
            return
        except Stale:
            self.wake()  # the next look at the rows takes in what the other wrote
            return
        except Exception:
            self.metrics.failures.inc()
            log.exception("a rollout was not looked at", rollout=watch.row.id, model=watch.row.model)
            return
        finally:
            watch.busy = False
        if outcome.moved:
            await self._tell_routers(watch)
        for kind in outcome.given:
            self.metrics.verdicts.labels(kind).inc()
            log.info("rollout", rollout=watch.row.id, model=watch.row.model, verdict=kind)
        self.metrics.look_seconds.observe(time.perf_counter() - began)
        if watch.drain(self.looks.clock()):
            watch.again = True

    async def _tell_routers(self, watch: Watch) -> None:
        """At once; where that fails, the publisher makes up for it."""
        try:
            await self.put_route(watch.tenant, watch.row.model)
        except Exception:
            self.metrics.failures.inc()
            log.exception("a route is put later", model=watch.row.model)

    async def _end_leaving(self, rows: Sequence[RolloutRow]) -> None:
        now = self.looks.clock()
        for row in rows:
            if row.leaves_at is not None and row.leaves_at <= now:
                try:
                    await self.looks.leave(row)
                except LeaseLost:
                    self._drop()
                    return
                except Exception:
                    self.metrics.failures.inc()
                    log.exception("the version that lost could not leave", rollout=row.id, model=row.model)

    async def _keep_lease(self) -> None:
        while True:
            if self._wanted:
                await self.looks.lease.keep()
            await asyncio.sleep(RENEW_S)

    async def forget_old(self) -> None:
        """Drop what rollouts saw that ended more than 30 days ago; their verdicts stay."""
        while True:
            async with self.db.write() as session:
                if not await RolloutRepository(session).purge(self.looks.clock() - ENTRIES_KEPT_S):
                    return

    async def _forget_each_hour(self) -> None:
        while True:
            await self.forget_old()
            await asyncio.sleep(_PURGE_EACH_S)

    def _drop(self) -> None:
        """Hold nothing: another moves rollouts, or there are none."""
        self.metrics.leads.set(0)
        self.intake.wanted.clear()
        self.intake.restart()
        self.watches.clear()
        self._long.clear()
        self._term = None
