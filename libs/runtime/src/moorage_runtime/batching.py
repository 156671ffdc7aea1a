"""Adaptive batches: while one predict runs, requests gather; what waits then goes together.

No timer: an idle model answers at once, a busy one in batches as large as its load, up to `max_batch` rows.
"""

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

import numpy as np
import structlog

from moorage_common.errors import DeadlineExceeded, Internal, MoorageError, Unavailable
from moorage_runtime.formats import Model
from moorage_runtime.v2 import Array

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Predicted:
    """One request's answer. `service_us` is its share, by rows, of the time in the model."""

    outputs: dict[str, Array]
    service_us: int


@dataclass(slots=True, eq=False)
class _Waiting:
    inputs: dict[str, Array]
    rows: int
    wanted: tuple[str, ...]
    deadline: float
    future: "asyncio.Future[Predicted]"
    key: tuple[object, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.key = tuple((name, a.dtype.char, a.shape[1:]) for name, a in self.inputs.items())


_Outcome = Predicted | BaseException


class Batcher:
    """One model's queue and its thread. Used from one event loop."""

    def __init__(self, model: Model, *, batchable: bool, max_batch: int, max_waiting: int, name: str) -> None:
        self._model = model
        self._batchable = batchable
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._waiting = 0
        self._queue: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._held: deque[_Waiting] = deque()
        self._thread = threading.Thread(target=self._run, name=f"predict-{name}", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests accepted and not answered yet."""
        return self._waiting

    def close(self) -> None:
        """End the thread once what it holds is answered."""
        self._queue.put(None)

    async def predict(
        self, inputs: dict[str, Array], *, rows: int, wanted: tuple[str, ...], deadline: float
    ) -> Predicted:
        """Answer inputs that agree with the signature.

        Args:
            deadline: on `time.monotonic`; what waits longer is dropped without being run.

        Raises:
            Unavailable: too many wait.
            DeadlineExceeded: not answered in time.
            BadRequest: the model refuses the values.
            Internal: the model failed.
        """
        if self._waiting >= self._max_waiting:
            raise Unavailable(
                f"{self._waiting} requests wait for this replica; try again, or raise the deployment's max replicas",
                code="host_busy",
                retry_after_s=1,
            )
        future: asyncio.Future[Predicted] = asyncio.get_running_loop().create_future()
        self._waiting += 1
        future.add_done_callback(self._one_less)
        self._queue.put(_Waiting(inputs, rows, wanted, deadline, future))
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await future
        except TimeoutError:
            raise _too_late() from None

    def _one_less(self, _future: object) -> None:
        self._waiting -= 1

    def _run(self) -> None:
        while (first := self._next()) is not None:
            batch = self._gather(first)
            now = time.monotonic()
            live = [item for item in batch if not item.future.done() and item.deadline > now]
            settled: list[tuple[_Waiting, _Outcome]] = [(i, _too_late()) for i in batch if i not in live]
            if live:
                settled += self._answers(live)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                batch[0].future.get_loop().call_soon_threadsafe(_settle, settled)

    def _next(self) -> _Waiting | None:
        return self._held.popleft() if self._held else self._queue.get()

    def _gather(self, first: _Waiting) -> list[_Waiting]:
        """`first` and what waits that goes with it, oldest first; the rest keeps its order."""
        batch = [first]
        if not self._batchable:
            return batch
        with contextlib.suppress(Empty):
            while (item := self._queue.get_nowait()) is not None:
                self._held.append(item)
            self._queue.put(None)
        rows = first.rows
        passed: deque[_Waiting] = deque()
        while self._held and rows < self._max_batch:
            item = self._held.popleft()
            if item.key == first.key and rows + item.rows <= self._max_batch:
                batch.append(item)
                rows += item.rows
            else:
                passed.append(item)
        self._held.extendleft(reversed(passed))
        return batch

    def _answers(self, batch: list[_Waiting]) -> list[tuple[_Waiting, _Outcome]]:
        if len(batch) > 1:
            together = self._together(batch)
            if together is not None:
                return list(zip(batch, together, strict=True))
        return [(item, self._alone(item)) for item in batch]

    def _together(self, batch: list[_Waiting]) -> list[Predicted] | None:
        """One predict for all; None if it raised, so that each is retried alone and a bad row fails alone."""
        inputs = {name: np.concatenate([item.inputs[name] for item in batch]) for name in batch[0].inputs}
        rows = sum(item.rows for item in batch)
        wanted = tuple(dict.fromkeys(name for item in batch for name in item.wanted))
        began = time.perf_counter()
        try:
            outputs = self._model.predict(inputs, wanted)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told to the one whose row it is
            log.debug("batch failed, retrying one by one", requests=len(batch), error=repr(error))
            return None
        spent = (time.perf_counter() - began) / rows
        if any(a.ndim == 0 or len(a) != rows for a in outputs.values()):
            log.warning("outputs do not have a row for each input row; requests are answered one by one from now on")
            self._batchable = False
            return None
        answers, at = [], 0
        for item in batch:
            own = {name: outputs[name][at : at + item.rows] for name in item.wanted}
            answers.append(Predicted(own, round(spent * item.rows * 1e6)))
            at += item.rows
        return answers

    def _alone(self, item: _Waiting) -> _Outcome:
        began = time.perf_counter()
        try:
            outputs = self._model.predict(item.inputs, item.wanted)
            own = {name: outputs[name] for name in item.wanted}
        except MoorageError as error:
            return error
        except Exception as error:
            log.exception("the model failed")
            return model_failed(error)
        return Predicted(own, round((time.perf_counter() - began) * 1e6))


def model_failed(error: Exception) -> Internal:
    """What a caller is told of an exception inside the model."""
    lines = str(error).splitlines() or [""]
    return Internal(f"the model failed: {type(error).__name__}: {lines[0][:300]}", code="model_failed")


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline passed before the model answered; allow more time or add replicas")


def _settle(settled: Collection[tuple[_Waiting, _Outcome]]) -> None:
    for item, outcome in settled:
        if item.future.done():
            continue
        if isinstance(outcome, BaseException):
            item.future.set_exception(outcome)
        else:
            item.future.set_result(outcome)
