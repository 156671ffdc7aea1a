"""Batches: what waits goes together, and everybody gets their own rows and their own errors."""

import asyncio
import threading
import time
from collections.abc import Collection

import numpy as np
import pytest

from moorage_common.errors import BadRequest, DeadlineExceeded, Internal, Unavailable
from moorage_runtime.batching import Batcher
from moorage_runtime.limits import Limits
from moorage_runtime.v2 import Array

WANTED = ("y",)


class Doubles:
    """Answers 2x after `gate` opens; refuses 13, breaks on 666; remembers rows of each call."""

    def __init__(self, *, rows_out: int | None = None) -> None:
        self.calls: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Event()
        self._rows_out = rows_out

    def predict(self, inputs: dict[str, Array], wanted: Collection[str]) -> dict[str, Array]:
        self.started.set()
        assert self.gate.wait(10)
        x = inputs["x"]
        self.calls.append(len(x))
        if (x == 13).any():
            raise BadRequest("13 is refused")
        if (x == 666).any():
            raise ZeroDivisionError("666")
        return {"y": (x * 2)[: self._rows_out], "unwanted": x}


def _batcher(model: Doubles, *, batchable: bool = True, max_batch: int = 64, max_waiting: int = 1000) -> Batcher:
    return Batcher(model, batchable=batchable, max_batch=max_batch, limits=Limits(max_waiting=max_waiting), name="t")


async def _ask(batcher: Batcher, *values: float, within_s: float = 20.0, dtype: str = "f8") -> list[float]:
    x = np.array(values, dtype=dtype)
    answer = await batcher.predict({"x": x}, rows=len(x), wanted=WANTED, deadline=time.monotonic() + within_s)
    assert list(answer.outputs) == ["y"]
    return list(answer.outputs["y"].tolist())


async def _busy(model: Doubles, batcher: Batcher) -> "asyncio.Task[list[float]]":
    """Occupy the model with one request, so that others wait."""
    model.gate.clear()
    first = asyncio.create_task(_ask(batcher, 0))
    await asyncio.to_thread(model.started.wait, 10)
    return first


async def test_what_waits_goes_together_and_rows_return_to_their_owners() -> None:
    model = Doubles()
    batcher = _batcher(model)
    first = await _busy(model, batcher)
    asks = [asyncio.create_task(_ask(batcher, i, i + 0.5)) for i in range(20, 40)]
    await asyncio.sleep(0)
    model.gate.set()
    assert await asyncio.gather(*asks) == [[2 * i, 2 * i + 1] for i in range(20, 40)]
    assert await first == [0]
    assert model.calls == [1, 40]
    batcher.close()


async def test_an_idle_model_answers_at_once_and_alone() -> None:
    model = Doubles()
    batcher = _batcher(model)
    assert await _ask(batcher, 1) == [2]
    assert model.calls == [1]
    batcher.close()


async def test_a_batch_never_exceeds_max_batch_but_a_larger_request_is_answered() -> None:
    model = Doubles()
    batcher = _batcher(model, max_batch=4)
    first = await _busy(model, batcher)
    asks = [asyncio.create_task(_ask(batcher, *range(rows))) for rows in (3, 3, 1, 9, 2)]
    await asyncio.sleep(0)
    model.gate.set()
    answers = await asyncio.gather(first, *asks)
    assert [len(a) for a in answers] == [1, 3, 3, 1, 9, 2]
    assert max(c for c in model.calls if c != 9) <= 4
    assert 9 in model.calls
    batcher.close()


async def test_a_bad_row_fails_alone() -> None:
    model = Doubles()
    batcher = _batcher(model)
    first = await _busy(model, batcher)
    asks = [asyncio.create_task(_ask(batcher, v)) for v in (1, 13, 2, 666, 3)]
    await asyncio.sleep(0)
    model.gate.set()
    answers = await asyncio.gather(*asks, return_exceptions=True)
    assert [answers[0], answers[2], answers[4]] == [[2], [4], [6]]
    assert isinstance(answers[1], BadRequest)
    assert isinstance(answers[3], Internal)
    assert answers[3].code == "model_failed"
    await first
    batcher.close()


async def test_requests_of_other_types_are_not_mixed() -> None:
    model = Doubles()
    batcher = _batcher(model)
    first = await _busy(model, batcher)
    asks = [asyncio.create_task(_ask(batcher, i, dtype=d)) for i, d in enumerate(["f8", "f4", "f8", "f4"])]
    await asyncio.sleep(0)
    model.gate.set()
    assert await asyncio.gather(*asks) == [[0], [2], [4], [6]]
    assert model.calls == [1, 2, 2]
    await first
    batcher.close()


@pytest.mark.parametrize("batchable", [False, True])
async def test_models_that_do_not_batch_are_asked_one_by_one(batchable: bool) -> None:
    model = Doubles(rows_out=1)
    batcher = _batcher(model, batchable=batchable)
    first = await _busy(model, batcher)
    asks = [asyncio.create_task(_ask(batcher, i)) for i in range(3)]
    await asyncio.sleep(0)
    model.gate.set()
    assert await asyncio.gather(first, *asks) == [[0], [0], [2], [4]]
    assert model.calls[-3:] == [1, 1, 1]
    batcher.close()


async def test_a_full_queue_refuses_and_recovers() -> None:
    model = Doubles()
    batcher = _batcher(model, max_waiting=2)
    first = await _busy(model, batcher)
    second = asyncio.create_task(_ask(batcher, 1))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable) as caught:
        await _ask(batcher, 2)
    assert caught.value.code == "host_busy"
    model.gate.set()
    await asyncio.gather(first, second)
    assert await _ask(batcher, 3) == [6]
    batcher.close()


async def test_what_waited_past_its_deadline_is_not_run() -> None:
    model = Doubles()
    batcher = _batcher(model)
    first = await _busy(model, batcher)
    with pytest.raises(DeadlineExceeded):
        await _ask(batcher, 5, within_s=0.02)
    model.gate.set()
    await first
    assert await _ask(batcher, 1) == [2]
    assert model.calls == [1, 1]
    batcher.close()
