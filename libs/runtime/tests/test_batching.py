"""Batches: what waits goes together, and everybody gets their own rows and their own errors."""

import asyncio
import random
import threading
import time
from collections.abc import Collection
from typing import Any

import numpy as np
import pytest

from moorage_common.errors import BadRequest, DeadlineExceeded, Internal, Unavailable
from moorage_runtime.batching import Batcher, Turn
from moorage_runtime.limits import Limits
from moorage_runtime.pacing import INLINE_S
from moorage_runtime.v2 import Array

WANTED = ("y",)


class Doubles:
    """Answers 2x after `gate` opens; refuses 13, breaks on 666; remembers rows and thread of each call."""

    def __init__(self, *, rows_out: int | None = None) -> None:
        self.calls: list[int] = []
        self.threads: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Event()
        self._rows_out = rows_out

    def predict(self, inputs: dict[str, Array], wanted: Collection[str]) -> dict[str, Array]:
        self.threads.append(threading.get_ident())
        self.started.set()
        assert self.gate.wait(10)
        x = inputs["x"]
        self.calls.append(len(x))
        if (x == 13).any():
            raise BadRequest("13 is refused")
        if (x == 666).any():
            raise ZeroDivisionError("666")
        return {"y": (x * 2)[: self._rows_out], "unwanted": x}


def _batcher(
    model: Doubles, *, batchable: bool = True, max_batch: int = 64, inline_s: float = INLINE_S, **limits: Any
) -> Batcher:
    return Batcher(
        model, batchable=batchable, max_batch=max_batch, name="t", limits=Limits(**limits), inline_s=inline_s
    )


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


async def test_one_bad_row_among_many_costs_a_halving_and_fails_alone() -> None:
    model = Doubles()
    batcher = _batcher(model)
    first = await _busy(model, batcher)
    asks = [asyncio.create_task(_ask(batcher, 13 if i == 40 else 100 + i)) for i in range(64)]
    await asyncio.sleep(0)
    model.gate.set()
    answers = await asyncio.gather(*asks, return_exceptions=True)
    assert isinstance(answers.pop(40), BadRequest)
    assert answers == [[200 + 2 * i] for i in range(64) if i != 40]
    await first
    assert model.calls[:2] == [1, 64]
    assert len(model.calls) <= 2 + 2 * 6
    batcher.close()


async def test_a_fast_model_answers_in_the_event_loop_what_one_turn_brought() -> None:
    model = Doubles()
    batcher = _batcher(model, inline_s=10)
    await _ask(batcher, 1)
    assert model.threads.pop() != threading.get_ident()
    assert await asyncio.gather(*[_ask(batcher, i) for i in range(20, 40)]) == [[2 * i] for i in range(20, 40)]
    assert model.calls == [1, 20]
    assert model.threads == [threading.get_ident()]
    batcher.close()


async def test_a_model_kept_in_its_thread_never_holds_up_the_event_loop() -> None:
    model = Doubles()
    batcher = _batcher(model, inline_s=0)
    for i in range(5):
        assert await _ask(batcher, i) == [2 * i]
    assert threading.get_ident() not in model.threads
    batcher.close()


async def test_a_version_that_takes_long_does_not_hold_up_another() -> None:
    slow, fast, turn = Doubles(), Doubles(), Turn()
    batchers = [
        Batcher(model, batchable=True, max_batch=64, name="t", limits=Limits(), turn=turn) for model in (slow, fast)
    ]
    first = await _busy(slow, batchers[0])
    for i in range(5):
        assert await _ask(batchers[1], i) == [2 * i]
    assert not first.done()
    slow.gate.set()
    assert await first == [0]
    for batcher in batchers:
        batcher.close()


async def test_a_bad_row_in_the_event_loop_fails_alone_too() -> None:
    model = Doubles()
    batcher = _batcher(model, inline_s=10)
    await _ask(batcher, 1)
    answers = await asyncio.gather(*[_ask(batcher, v) for v in (1, 13, 2)], return_exceptions=True)
    assert model.threads[1] == threading.get_ident()
    assert [answers[0], answers[2]] == [[2], [4]]
    assert isinstance(answers[1], BadRequest)
    batcher.close()


async def test_a_cancelled_request_leaves_the_queue_and_is_not_run() -> None:
    model = Doubles()
    batcher = _batcher(model)
    first = await _busy(model, batcher)
    asks = [asyncio.create_task(_ask(batcher, i)) for i in range(1, 4)]
    await asyncio.sleep(0)
    assert batcher.waiting == 4
    asks[1].cancel()
    await asyncio.wait([asks[1]])
    assert batcher.waiting == 3
    model.gate.set()
    assert await asyncio.gather(first, asks[0], asks[2]) == [[0], [2], [6]]
    assert model.calls == [1, 2]
    assert batcher.waiting == 0
    batcher.close()


async def test_the_answer_of_a_request_cancelled_while_it_runs_is_thrown_away() -> None:
    model = Doubles()
    batcher = _batcher(model)
    first = await _busy(model, batcher)
    first.cancel()
    await asyncio.wait([first])
    model.gate.set()
    assert await _ask(batcher, 2) == [4]
    assert model.calls == [1, 1]
    batcher.close()


async def test_what_waited_too_long_is_refused_and_not_run_late() -> None:
    model = Doubles()
    batcher = _batcher(model, max_queue_age_s=0.02)
    first = await _busy(model, batcher)
    with pytest.raises(Unavailable) as caught:
        await _ask(batcher, 5)
    assert (caught.value.code, caught.value.headers) == ("host_busy", {"retry-after": "1"})
    model.gate.set()
    assert await first == [0]
    assert model.calls == [1]
    batcher.close()


async def test_what_runs_past_its_deadline_is_answered_at_its_deadline() -> None:
    model = Doubles()
    batcher = _batcher(model)
    model.gate.clear()
    with pytest.raises(DeadlineExceeded):
        await _ask(batcher, 5, within_s=0.02)
    model.gate.set()
    assert await _ask(batcher, 1) == [2]
    batcher.close()


async def test_batches_are_bounded_by_bytes() -> None:
    model = Doubles()
    batcher = _batcher(model, max_batch_bytes=32)
    first = await _busy(model, batcher)
    asks = [asyncio.create_task(_ask(batcher, *range(rows))) for rows in (2, 2, 1, 6)]
    await asyncio.sleep(0)
    model.gate.set()
    assert [len(a) for a in await asyncio.gather(*asks)] == [2, 2, 1, 6]
    await first
    assert model.calls == [1, 4, 1, 6]
    batcher.close()


async def test_each_request_gets_the_outputs_that_it_asked_for_and_no_others() -> None:
    model = Doubles()
    batcher = _batcher(model)
    first = await _busy(model, batcher)
    x, deadline = np.array([1.0]), time.monotonic() + 20
    asks = [
        asyncio.create_task(batcher.predict({"x": x}, rows=1, wanted=wanted, deadline=deadline))
        for wanted in (("y",), ("y", "unwanted"), ("unwanted",))
    ]
    await asyncio.sleep(0)
    model.gate.set()
    answers = await asyncio.gather(*asks)
    assert [list(a.outputs) for a in answers] == [["y"], ["y", "unwanted"], ["unwanted"]]
    assert model.calls == [1, 3]
    await first
    batcher.close()


async def test_an_answer_tells_how_long_it_waited_and_what_ran_with_it() -> None:
    model = Doubles()
    batcher = _batcher(model)
    first = await _busy(model, batcher)
    began = time.monotonic()
    asks = [
        asyncio.create_task(batcher.predict({"x": np.ones(2)}, rows=2, wanted=WANTED, deadline=time.monotonic() + 20))
        for _ in range(3)
    ]
    await asyncio.sleep(0)
    await asyncio.to_thread(threading.Event().wait, 0.005)
    waited = time.monotonic() - began
    model.gate.set()
    for answer in await asyncio.gather(*asks):
        assert answer.batch_rows == 6
        assert waited * 0.5e6 <= answer.queue_us <= (time.monotonic() - began) * 1e6
        assert answer.finite
    await first
    batcher.close()


class Moody(Doubles):
    """Fast, slow and failing by turns."""

    def predict(self, inputs: dict[str, Array], wanted: Collection[str]) -> dict[str, Array]:
        until = time.perf_counter() + (0.003 if len(self.calls) // 20 % 2 else 0)
        while time.perf_counter() < until:
            pass
        return super().predict(inputs, wanted)


async def test_rows_return_to_their_owners_whatever_is_slow_bad_or_cancelled_meanwhile() -> None:
    model, chance = Moody(), random.Random(3)
    batcher = _batcher(model, max_batch=16)
    for number in range(12):
        values = [chance.choice([13, *range(1000, 1030)]) for _ in range(40)]
        values[7] = 666 if number == 5 else 0
        asks = [asyncio.create_task(_ask(batcher, v, v + 0.5)) for v in values]
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        left = chance.sample(asks, 5)
        for task in left:
            task.cancel()
        answers = await asyncio.gather(*asks, return_exceptions=True)
        for task, value, answer in zip(asks, values, answers, strict=True):
            if isinstance(answer, asyncio.CancelledError):
                assert task in left
            elif value in (13, 666):
                assert isinstance(answer, BadRequest if value == 13 else Internal)
            else:
                assert answer == [2 * value, 2 * value + 1]
    assert len(set(model.threads)) == 2
    batcher.close()


async def test_a_model_that_leaves_out_an_output_fails_its_requests_and_goes_on() -> None:
    model = Doubles()
    batcher = _batcher(model)
    deadline = time.monotonic() + 20
    asks = [batcher.predict({"x": np.ones(1)}, rows=1, wanted=("none",), deadline=deadline) for _ in range(3)]
    assert [type(e) for e in await asyncio.gather(*asks, return_exceptions=True)] == [Internal] * 3
    assert await _ask(batcher, 1) == [2]
    batcher.close()


async def test_a_closed_batcher_answers_what_it_holds_and_takes_no_more() -> None:
    model = Doubles()
    batcher = _batcher(model)
    first = await _busy(model, batcher)
    second = asyncio.create_task(_ask(batcher, 1))
    await asyncio.sleep(0)
    batcher.close()
    with pytest.raises(Unavailable) as caught:
        await _ask(batcher, 2)
    assert caught.value.code == "draining"
    model.gate.set()
    assert await asyncio.gather(first, second) == [[0], [2]]
