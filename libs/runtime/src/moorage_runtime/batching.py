"""Adaptive batches: while one predict runs, requests gather; what waits then goes together.

No timer: an idle model answers at once, a busy one in batches as large as its load. Fast predicts run in the event
loop at the end of its turn, with what this turn has read; slow ones in the version's own thread (see pacing.py).
"""

import asyncio
import contextlib
import functools
import resource
import time
from collections import deque
from collections.abc import Sequence

from moorage_common.errors import DeadlineExceeded, MoorageError, Unavailable
from moorage_runtime.formats import Model
from moorage_runtime.limits import Limits
from moorage_runtime.pacing import INLINE_S, SURPRISE_S, Pace, most_rows, place
from moorage_runtime.predicting import Ask, Predicted, Run, run
from moorage_runtime.v2 import Array
from moorage_runtime.workers import Workers

JOINED_BYTES = 512 * 1024
"""A larger request runs alone on a processor, where copying it costs more than a call of its own; a GPU gains by it."""
_MIN_TIMER_S = 0.001
_MAX_TIMER_S = 3600.0


class Turn:
    """What predicts have taken of the present turn of the event loop, over all versions of a host."""

    def __init__(self) -> None:
        self.spent_s = 0.0

    def spend(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        """Count until the next turn begins."""
        if not self.spent_s:
            loop.call_soon(self._over)
        self.spent_s += seconds

    def _over(self) -> None:
        self.spent_s = 0.0


class Batcher:
    """One model's queue. All but `waiting` and `close` are used from one event loop."""

    def __init__(
        self,
        model: Model,
        *,
        batchable: bool,
        max_batch: int,
        name: str,
        limits: Limits,
        turn: Turn | None = None,
        inline_s: float = INLINE_S,
        workers: Workers | None = None,
        pace: Pace | None = None,
    ) -> None:
        """Begin with an empty queue.

        Args:
            inline_s: the most that a predict may take of the event loop; 0 keeps this model in its thread.
            workers: threads shared with other models; None is a thread of its own, once it is needed.
            pace: what was measured of this model before.
        """
        self._model = model
        self._batchable = batchable
        self._max_batch = max_batch
        self._limits = limits
        self._most_joined = JOINED_BYTES if inline_s else limits.max_batch_bytes
        self._turn = turn or Turn()
        self._inline_s = inline_s
        self._pace = pace or Pace()
        self._queue: deque[Ask] = deque()
        self._running: Sequence[Ask] = ()
        self._due = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._workers = workers or Workers(f"predict-{name}")

    @property
    def waiting(self) -> int:
        """Requests that wait or run."""
        return len(self._queue) + len(self._running)

    def close(self) -> None:
        """Take no more; what is held is answered. Safe for threads."""
        self._closed = True

    async def predict(
        self, inputs: dict[str, Array], *, rows: int, wanted: tuple[str, ...], deadline: float
    ) -> Predicted:
        """Answer inputs that agree with the signature. Cancelled, it leaves nothing behind in the queue.

        Args:
            deadline: on `time.monotonic`; what waits longer is dropped without being run.

        Raises:
            Unavailable: too many wait, or it waited too long (`host_busy`); the version leaves (`draining`).
            DeadlineExceeded: not answered in time.
            BadRequest: the model refuses the values.
            Internal: the model failed.
        """
        now = time.monotonic()
        loop = self._admit()
        until = min(deadline, now + self._limits.max_queue_age_s)
        ask = Ask(inputs, rows, wanted, now, deadline, until, loop.create_future())
        self._queue.append(ask)
        if not self._due and not self._running:
            self._due = True
            loop.call_soon(self._next)
        if self._timer is None or until < self._timer_at:
            self._wake_at(loop, until, now)
        try:
            return await ask.future
        except asyncio.CancelledError:
            with contextlib.suppress(ValueError):  # it runs already; its answer is thrown away
                self._queue.remove(ask)
            raise

    def _admit(self) -> asyncio.AbstractEventLoop:
        if self._closed:
            raise Unavailable("this replica is letting the version go; try again", code="draining", retry_after_s=1)
        if self.waiting >= self._limits.max_waiting:
            raise Unavailable(
                f"{self.waiting} requests wait for this replica; try again, or raise the deployment's max replicas",
                code="host_busy",
                retry_after_s=1,
            )
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def _next(self) -> None:
        """Run the next batch, or give it to the thread."""
        self._due = False
        if self._running:
            return
        now = time.monotonic()
        batch = self._gather(now)
        if not batch:
            return
        rows = sum([ask.rows for ask in batch])
        where = place(self._pace, rows, now=now, spent_s=self._turn.spent_s, within_s=self._inline_s)
        if not (where.inline and self._ran_inline(batch)):
            self._running = batch
            self._workers.submit(functools.partial(self._run_apart, batch))

    def _gather(self, now: float) -> list[Ask]:
        """The oldest request that is still to be run and what waits that goes with it; the rest keeps its order."""
        queue = self._queue
        while queue and not _live(queue[0], now):
            queue.popleft()
        if not queue:
            return []
        first = queue.popleft()
        batch, rows, size, key = [first], first.rows, first.size_bytes, first.key
        if not self._batchable or not queue or size > self._most_joined:
            return batch
        most = most_rows(self._pace, max_batch=self._max_batch, slack_s=first.deadline - now)
        passed: list[Ask] = []
        while queue and rows < most:
            ask = queue.popleft()
            if not _live(ask, now):
                continue
            fits = rows + ask.rows <= most and size + ask.size_bytes <= self._limits.max_batch_bytes
            if fits and ask.key == key:
                batch.append(ask)
                rows += ask.rows
                size += ask.size_bytes
            else:
                passed.append(ask)
        queue.extendleft(reversed(passed))
        return batch

    def _ran_inline(self, batch: list[Ask]) -> bool:
        """Answer `batch` here and now; False leaves it to the thread to find who in it is bad."""
        assert self._loop is not None  # noqa: S101 - asks come from it
        before, began, cpu = _preemptions(), time.monotonic(), time.thread_time()
        this = run(self._model, batch, batchable=self._batchable, break_off=True)
        spent = time.monotonic() - began
        self._turn.spend(self._loop, spent)
        if spent >= SURPRISE_S and (time.thread_time() - cpu >= SURPRISE_S or _preemptions() == before):
            self._pace.surprised(began + spent)
        for call in this.calls:
            self._pace.record(call.rows, inline_s=call.wall_s, whole_s=call.wall_s)
        if this.outcomes is None:
            return False
        self._settle(batch, this)
        if self._queue:
            self._due = True
            self._loop.call_soon(self._next)
        return True

    def _run_apart(self, batch: list[Ask]) -> None:
        """In a thread."""
        this = run(self._model, batch, batchable=self._batchable)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            batch[0].future.get_loop().call_soon_threadsafe(self._ran_apart, batch, this)

    def _ran_apart(self, batch: list[Ask], this: Run) -> None:
        for call in this.calls:
            self._pace.record(call.rows, inline_s=call.cpu_s, whole_s=call.wall_s)
        self._running = ()
        self._settle(batch, this)
        self._next()

    def _settle(self, batch: Sequence[Ask], this: Run) -> None:
        self._batchable = self._batchable and this.aligned
        for ask, outcome in zip(batch, this.outcomes or (), strict=True):
            if ask.future.done():
                continue
            if isinstance(outcome, Exception):
                ask.future.set_exception(outcome)
            else:
                ask.future.set_result(outcome)

    def _wake_at(self, loop: asyncio.AbstractEventLoop, at: float, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = loop.call_later(min(max(at - now, _MIN_TIMER_S), _MAX_TIMER_S), self._expire, loop)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """Refuse what waits past its time, and what runs past its deadline; look again when the next one is due."""
        self._timer = None
        now = time.monotonic()
        if any(ask.until <= now for ask in self._queue):
            self._queue = deque([ask for ask in self._queue if _live(ask, now)])
        for ask in self._running:
            if ask.deadline <= now:
                _refuse(ask, _too_late())
        running = [ask.deadline for ask in self._running if not ask.future.done()]
        if running or self._queue:
            self._wake_at(loop, min(running + [ask.until for ask in self._queue]), now)


def _live(ask: Ask, now: float) -> bool:
    """Whether to run it; what is overdue is refused here."""
    if ask.until > now:
        return not ask.future.done()
    _refuse(ask, _too_late() if ask.deadline <= now else _too_old(now - ask.since))
    return False


def _refuse(ask: Ask, error: MoorageError) -> None:
    if not ask.future.done():
        ask.future.set_exception(error)


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline passed before the model answered; allow more time or add replicas")


def _too_old(waited_s: float) -> Unavailable:
    return Unavailable(
        f"the request waited {waited_s:.1f} s for this replica; try again, or raise the deployment's max replicas",
        code="host_busy",
        retry_after_s=1,
    )


def _preemptions() -> int:
    """How often the operating system has taken the processor from this thread: no fault of the model."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
