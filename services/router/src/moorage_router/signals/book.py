"""All running rollouts' batches on this router: opened at route time, closed in time, handed on when complete."""

import time
from collections.abc import Callable

from moorage_common.contracts.routes import Route, RouteRollout
from moorage_common.contracts.signals import BATCH_REQUESTS, BATCH_S, COUNTED_A_SECOND, SAMPLED, SignalBatch
from moorage_router.signals.batch import Arm, Batch, Mark
from moorage_router.signals.memory import Memory

ENDED_KEPT = 10_000
GRACE_S = 0.5
"""After the last deadline: the gateway's own 504 comes up to 50 ms late."""

Take = Callable[[SignalBatch], None]


class Judged:
    """Counts the requests of one rollout under one revision of a route: one open batch a stratum."""

    __slots__ = (
        "_book", "_counted", "_deadline_s", "_full", "_open", "_route", "_sampled", "_second_from", "is_closed",
        "memory", "rollout",
    )  # fmt: skip

    def __init__(self, book: "Book", route: Route, rollout: RouteRollout, memory: Memory) -> None:
        self._book = book
        self._route = route
        self.rollout = rollout
        self.memory = memory
        self._deadline_s = route.deadline_ms / 1000
        self._open: dict[str, Batch] = {}
        self._second_from = book.now()
        self._counted: dict[str, int] = {}
        """Requests in closed batches since `_second_from`, by stratum."""
        self._full: set[str] = set()
        """Strata of which no more count in this second."""
        self._sampled: dict[int, int] = {}
        """Predictions asked for since `_second_from`, by version."""
        self.is_closed = False
        memory.timed.clear()

    def begin(
        self, number: int, client: str, stratum: str = "", key: int | None = None, idempotency: bytes | None = None
    ) -> Mark | None:
        """A request was routed to version `number`. None when it takes no part: another version's, a retry, a sticky
        key that has had its bad event or is in this batch already, or beyond what is counted in a second.

        Args:
            client: the caller's kid.
            key: 63-bit hash of the sticky key, None where traffic is not sticky.
            idempotency: the request's `Idempotency-Key`.
        """
        batch = self._open.get(stratum)
        if batch is None:
            if self.is_closed or stratum in self._full:  # closed: the route changed while this one waited its turn
                return None
            batch = self._begun(stratum)
        arm = batch.arms.get(number)
        if arm is None or (idempotency is not None and self.memory.is_retry(client, idempotency)):
            return None
        timed, nth = True, 0
        if key is None:
            nth = batch.clients.get(client, 0)
            batch.clients[client] = nth + 1
        else:
            if key in batch.keys or not self.memory.may_count(key):
                return None
            batch.keys.add(key)
            timed = self.memory.may_time(key)
        mark = Mark(batch, arm, nth, key, timed)
        batch.routed = routed = batch.routed + 1
        if routed >= BATCH_REQUESTS:
            self._close(stratum)
        return mark

    def sweep(self, now: float) -> None:
        """Close the batches that have been open for a second, and begin another second's counting."""
        opened = now - BATCH_S
        for stratum in [name for name, batch in self._open.items() if batch.opened <= opened]:
            self._close(stratum)
        if self._second_from <= opened:
            self._sampled, self._counted, self._full, self._second_from = {}, {}, set(), now

    def close(self) -> None:
        """The route has changed: close every batch. What is still routed by it is not counted."""
        self.is_closed = True
        for stratum in list(self._open):
            self._close(stratum)

    def _begun(self, stratum: str) -> Batch:
        rollout, now = self.rollout, self._book.now()
        arms = {
            number: Arm(number, SAMPLED - self._sampled.get(number, 0))
            for number in (rollout.candidate, rollout.stable)
        }
        batch = self._open[stratum] = Batch(
            stratum, arms, self.memory, skip_first=rollout.skip_first, opened=now, opened_at=self._book.wall(),
            finished=self._finished,
        )  # fmt: skip
        return batch

    def _close(self, stratum: str) -> None:
        batch = self._open.pop(stratum)
        counted = self._counted[stratum] = self._counted.get(stratum, 0) + batch.routed
        if counted >= COUNTED_A_SECOND:
            self._full.add(stratum)
        for number, arm in batch.arms.items():
            self._sampled[number] = min(SAMPLED, self._sampled.get(number, 0) + arm.routed)
        self._book.waiting[batch] = None
        batch.close(self._book.wall(), self._book.now() + self._deadline_s + GRACE_S)

    def _finished(self, batch: Batch) -> None:
        book, route, rollout = self._book, self._route, self.rollout
        del book.waiting[batch]
        candidate, stable = batch.arms[rollout.candidate], batch.arms[rollout.stable]
        if not candidate.counted + stable.counted:
            return
        book.take(
            SignalBatch(
                router=book.router, boot=book.boot, seq=book.next_seq(rollout.id), tenant=route.tenant,
                model=route.model, rollout=rollout.id, revision=route.revision, stratum=batch.stratum,
                opened_at=batch.opened_at, closed_at=batch.closed_at,
                candidate=candidate.counts(batch.most), stable=stable.counts(batch.most),
            )
        )  # fmt: skip


class Book:
    """One a router.

    Attributes:
        waiting: closed batches with requests that were not answered yet, in order.
    """

    def __init__(
        self,
        router: str,
        boot: str,
        take: Take,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`take` gets each complete batch, in the order of `seq`."""
        self.router = router
        self.boot = boot
        self.take = take
        self.now = now
        self.wall = wall
        self.waiting: dict[Batch, None] = {}
        self._judged: dict[tuple[str, str], Judged] = {}
        self._seqs: dict[str, int] = {}
        """Kept after a rollout's end: should it come back, its batches must not be taken for earlier ones. By last use;
        of so many that are started and aborted, those that sent nothing for longest are forgotten."""

    @property
    def taking_part(self) -> int:
        """Rollouts whose requests are counted."""
        return len(self._judged)

    def judge(self, route: Route) -> Judged | None:
        """A route was read: what counts its requests from now on, None without a rollout. Ends what did before."""
        rollout = route.rollout
        before = self.forget(route.tenant, route.model)
        if rollout is None or rollout.candidate == rollout.stable:
            return None
        same = before is not None and before.rollout.id == rollout.id
        memory = before.memory if before is not None and same else Memory()
        judged = self._judged[route.tenant, route.model] = Judged(self, route, rollout, memory)
        return judged

    def forget(self, tenant: str, model: str) -> Judged | None:
        """The route is gone: its open batches are closed. What counted until now."""
        held = self._judged.pop((tenant, model), None)
        if held is not None:
            held.close()
        return held

    def sweep(self) -> None:
        """Close what has been open for a second, and wait no longer for what is overdue; called every 50 ms."""
        now = self.now()
        for judged in self._judged.values():
            judged.sweep(now)
        if self.waiting:
            for batch in [batch for batch in self.waiting if batch.expires <= now]:
                batch.expire()

    def close(self) -> None:
        """The router ends: close all that is open. Every request has been answered by then."""
        for name in list(self._judged):
            self.forget(*name)

    def next_seq(self, rollout: str) -> int:
        """From 1, without a gap."""
        seq = self._seqs.pop(rollout, 0) + 1
        self._seqs[rollout] = seq
        if len(self._seqs) > ENDED_KEPT:
            del self._seqs[next(iter(self._seqs))]
        return seq
