"""One batch through a model: rows together, answers apart, each bad request with its own error. Knows no threads."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import structlog

from moorage_common.errors import Internal, MoorageError
from moorage_runtime.formats import Model
from moorage_runtime.v2 import Array

log = structlog.get_logger()


class Predicted(NamedTuple):
    """One request's answer.

    `service_us` is its share, by rows, of the time in the model; `queue_us` how long it waited before; `batch_rows`
    the rows that ran together with it, its own included. `finite`: no float in the whole batch is NaN or Inf.
    """

    outputs: dict[str, Array]
    service_us: int
    queue_us: int
    batch_rows: int
    finite: bool


@dataclass(slots=True, eq=False)
class Ask:
    """A request that waits for its batch. `deadline`, `since` and `until` are on `time.monotonic`; after `until` it is
    not run any more, be it for its deadline or for its age."""

    inputs: dict[str, Array]
    rows: int
    wanted: tuple[str, ...]
    since: float
    deadline: float
    until: float
    future: "asyncio.Future[Predicted]"
    key: tuple[object, ...] = field(init=False)
    size_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        arrays = self.inputs.values()
        self.key = (*self.inputs, *[part for a in arrays for part in (a.dtype.char, a.shape[1:])])
        self.size_bytes = sum([a.nbytes for a in arrays])


Outcome = Predicted | Exception


class Call(NamedTuple):
    """A predict that succeeded: its rows, wall time and processor time of the calling thread."""

    rows: int
    wall_s: float
    cpu_s: float


@dataclass(slots=True)
class Run:
    """What a batch came to. `outcomes` has one for each request, in order; None in a run that was broken off.

    `aligned`: every answer had a row for each row. `failed`: the model raised what it should not.
    """

    outcomes: list[Outcome] | None = None
    calls: list[Call] = field(default_factory=list)
    aligned: bool = True
    failed: bool = False


def run(model: Model, batch: Sequence[Ask], *, batchable: bool, break_off: bool = False) -> Run:
    """Answer `batch`. If the model raises for several requests, it is halved until each bad one stands alone: one in
    n costs about 2 log2(n) predicts more. Never raises what the model raises.

    Args:
        batchable: whether rows may go together; else one by one.
        break_off: end after the first predict of several requests that does not answer them, with no outcomes.
    """
    this = Run()
    if len(batch) == 1:
        this.outcomes = [_alone(model, batch[0], this)]
    elif not batchable:
        this.outcomes = [_alone(model, ask, this) for ask in batch]
    elif break_off:
        this.outcomes = _together(model, batch, this)
    else:
        this.outcomes = _halved(model, batch, this)
    return this


def _halved(model: Model, batch: Sequence[Ask], this: Run) -> list[Outcome]:
    if len(batch) == 1 or not this.aligned:
        return [_alone(model, ask, this) for ask in batch]
    answers = _together(model, batch, this)
    if answers is not None:
        return answers
    middle = len(batch) // 2
    return _halved(model, batch[:middle], this) + _halved(model, batch[middle:], this)


def _together(model: Model, batch: Sequence[Ask], this: Run) -> list[Outcome] | None:
    """One predict for all; None if it raised, or if its answer has not a row for each row."""
    rows = sum([ask.rows for ask in batch])
    choices = {ask.wanted: None for ask in batch}
    wanted = tuple(dict.fromkeys([name for choice in choices for name in choice]))
    since = time.monotonic()
    try:
        inputs = {name: np.concatenate([ask.inputs[name] for ask in batch]) for name in batch[0].inputs}
        outputs = _measured(model, inputs, wanted, rows, this)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told to the one whose row it is
        log.debug("a batch failed, halving it", requests=len(batch), error=repr(error))
        return None
    if any(a.ndim == 0 or len(a) != rows for a in outputs.values()):
        log.warning("outputs do not have a row for each input row; requests are answered one by one from now on")
        this.aligned = False
        return None
    finite = all_finite(outputs)
    row_us = this.calls[-1].wall_s / rows * 1e6
    answers: list[Outcome] = []
    at = 0
    for ask in batch:
        end = at + ask.rows
        own = {name: outputs[name][at:end] for name in ask.wanted}
        answers.append(Predicted(own, round(row_us * ask.rows), round((since - ask.since) * 1e6), rows, finite))
        at = end
    return answers


def _alone(model: Model, ask: Ask, this: Run) -> Outcome:
    since = time.monotonic()
    try:
        # Raw bytes begin wherever the JSON before them ended, which need not be a multiple of a number's size.
        inputs = {name: a if a.flags.aligned else a.copy() for name, a in ask.inputs.items()}
        outputs = _measured(model, inputs, ask.wanted, ask.rows, this)
    except MoorageError as error:
        return error
    except Exception as error:
        log.warning("the model failed", error=repr(error)[:500], exc_info=not this.failed)
        this.failed = True
        return model_failed(error)
    spent_us = round(this.calls[-1].wall_s * 1e6)
    return Predicted(outputs, spent_us, round((since - ask.since) * 1e6), ask.rows, all_finite(outputs))


def _measured(
    model: Model, inputs: dict[str, Array], wanted: tuple[str, ...], rows: int, this: Run
) -> dict[str, Array]:
    """The outputs wanted, and those only."""
    began, cpu = time.perf_counter(), time.thread_time()
    outputs = model.predict(inputs, wanted)
    this.calls.append(Call(rows, time.perf_counter() - began, time.thread_time() - cpu))
    return {name: outputs[name] for name in wanted}


def all_finite(outputs: dict[str, Array]) -> bool:
    return all(bool(np.isfinite(a).all()) for a in outputs.values() if a.dtype.kind == "f")


def model_failed(error: Exception) -> Internal:
    """What a caller is told of an exception inside the model."""
    lines = str(error).splitlines() or [""]
    return Internal(f"the model failed: {type(error).__name__}: {lines[0][:300]}", code="model_failed")
