"""Models that answer in coroutines: at once, within bounds, and no longer than somebody waits."""

import asyncio
import time
from collections.abc import Collection

import numpy as np
import pytest

from moorage_common.errors import DeadlineExceeded, Internal, Unavailable
from moorage_runtime.coroutines import Concurrent
from moorage_runtime.limits import Limits
from moorage_runtime.predicting import Predicted
from moorage_runtime.v2 import Array


class Doubling:
    """Answers when `gate` opens; notes what it is told."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.began = self.cancelled = 0
        self.closed = False

    async def predict(self, inputs: dict[str, Array], wanted: Collection[str]) -> dict[str, Array]:
        self.began += 1
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if inputs["x"][0] < 0:
            raise KeyError("y")
        return {"y": inputs["x"] * 2, "nan": inputs["x"] * np.nan}

    def close(self) -> None:
        self.closed = True


def ask(
    concurrent: Concurrent, *, wanted: tuple[str, ...] = ("y",), x: float = 1.0, within_s: float = 30.0
) -> asyncio.Task[Predicted]:
    deadline = time.monotonic() + within_s
    return asyncio.create_task(concurrent.predict({"x": np.full(3, x)}, rows=3, wanted=wanted, deadline=deadline))


async def begun(model: Doubling, count: int) -> None:
    async with asyncio.timeout(10):
        while model.began < count:  # noqa: ASYNC110 - the model counts, it sets no event
            await asyncio.sleep(0)


async def test_requests_are_with_the_model_together_up_to_the_limit() -> None:
    model = Doubling()
    concurrent = Concurrent(model, Limits(max_waiting=4))
    tasks = [ask(concurrent) for _ in range(4)]
    await begun(model, 4)
    assert concurrent.waiting == 4
    with pytest.raises(Unavailable) as caught:
        await ask(concurrent)
    assert caught.value.code == "host_busy"
    model.gate.set()
    answers = await asyncio.gather(*tasks)
    assert [answer.outputs["y"].tolist() for answer in answers] == [[2.0, 2.0, 2.0]] * 4
    assert {answer.batch_rows for answer in answers} == {3}
    assert concurrent.waiting == 0


async def test_whoever_waits_no_longer_is_worked_for_no_longer() -> None:
    model = Doubling()
    concurrent = Concurrent(model, Limits())
    gone = ask(concurrent)
    await begun(model, 1)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    with pytest.raises(DeadlineExceeded):
        await ask(concurrent, within_s=0.05)
    assert model.cancelled == 2
    assert concurrent.waiting == 0


async def test_what_the_model_raises_or_leaves_out_is_told() -> None:
    model = Doubling()
    model.gate.set()
    concurrent = Concurrent(model, Limits())
    with pytest.raises(Internal, match="KeyError"):
        await ask(concurrent, x=-1)
    with pytest.raises(Internal, match="did not answer output 'other'"):
        await ask(concurrent, wanted=("y", "other"))
    assert (await ask(concurrent, wanted=("y",))).finite
    assert not (await ask(concurrent, wanted=("nan",))).finite


async def test_a_closed_version_takes_no_more_and_ends_what_it_started() -> None:
    model = Doubling()
    concurrent = Concurrent(model, Limits())
    concurrent.close()
    assert model.closed
    with pytest.raises(Unavailable) as caught:
        await ask(concurrent)
    assert caught.value.code == "draining"
