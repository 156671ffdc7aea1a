"""A pool: all its versions answer, those lately used from memory."""

import asyncio
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moorage_common.contracts.desired import ArtifactRef, LoadSpec
from moorage_common.contracts.tensors import Signature, TensorSpec
from moorage_common.errors import DeadlineExceeded, NotFound, Unavailable, Unprocessable
from moorage_runtime.limits import Limits
from moorage_runtime.pooled.journal import Journal
from moorage_runtime.pooled.pool import FLOOR_BYTES, Pool, charged_bytes
from moorage_runtime.v2 import Array
from moorage_runtime.versions import Served

pytestmark = pytest.mark.timeout(60)

SIGNATURE = Signature(
    inputs=[TensorSpec(name="x", datatype="FP32", shape=[-1, 2])],
    outputs=[TensorSpec(name="y", datatype="FP32", shape=[-1, 2])],
)
X = {"x": np.ones((1, 2), np.float32)}


def spec(model: str, model_format: str = "onnx") -> LoadSpec:
    ref = ArtifactRef(digest="sha256:" + "0" * 64, size_bytes=0)
    return LoadSpec.model_validate(
        {
            "tenant": "demo",
            "model": model,
            "version": 1,
            "format": model_format,
            "artifact": ref,
            "signature": SIGNATURE,
            "threads": 4,
        }
    )


class Doubles:
    def predict(self, inputs: dict[str, Array], wanted: Collection[str]) -> dict[str, Array]:
        return {"y": 2 * inputs["x"]}


class Store:
    """Loads Doubles, and remembers what it loaded."""

    def __init__(self) -> None:
        self.opened: list[LoadSpec] = []
        self.gate = threading.Event()
        self.gate.set()
        self.refused: set[str] = set()

    def open(self, spec: LoadSpec) -> Doubles:
        self.gate.wait(20)
        if spec.model in self.refused:
            raise Unprocessable("it is broken")
        self.opened.append(spec)
        return Doubles()


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def pool(store: Store, tmp_path: Path) -> Iterator[Callable[..., Pool]]:
    """Make a pool with room for so many versions."""
    journal = Journal(tmp_path / "journal", watch=False)

    def make(room: int = 100, **limits: Any) -> Pool:
        budget = room * FLOOR_BYTES
        return Pool(store.open, lambda _spec: "", journal, budget_bytes=budget, limits=Limits(**limits))

    yield make
    journal.close()


def until_settled(pool: Pool) -> dict[str, str]:
    deadline = time.monotonic() + 20
    while any(held.state == "loading" for held in pool.held()):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return {held.model: held.state for held in pool.held()}


async def answers(pool: Pool, model: str) -> Served:
    served = pool.serving(model, 1) or await pool.woken(model, 1, time.monotonic() + 20)
    got = await served.batcher.predict(X, rows=1, wanted=("y",), deadline=time.monotonic() + 20)
    assert got.outputs["y"].tolist() == [[2.0, 2.0]]
    return served


async def test_all_versions_answer_and_the_budget_bounds_those_in_memory(
    pool: Callable[..., Pool], store: Store
) -> None:
    small = pool(room=10)
    names = [f"m{number}" for number in range(50)]
    small.register([spec(name) for name in names])
    assert set(until_settled(small).values()) == {"ready"}
    for name in names:
        await answers(small, name)
        memory = small.memory()
        assert memory["resident"] <= 10
        assert memory["used_bytes"] <= memory["budget_bytes"]
    assert {s.threads for s in store.opened} == {1}, "a pool's models share the processor, whatever they asked for"


async def test_what_was_used_lately_is_not_loaded_again(pool: Callable[..., Pool], store: Store) -> None:
    small = pool(room=3)
    small.register([spec(name) for name in ("a", "b", "c", "d")])
    until_settled(small)
    loads = len(store.opened)
    assert small.serving("a", 1) is None
    for name in ("b", "c", "d", "b"):
        assert small.serving(name, 1) is not None
    await answers(small, "a")
    assert len(store.opened) == loads + 1
    assert small.serving("c", 1) is None, "the longest unused made room"
    assert small.serving("b", 1) is not None
    assert {held.state for held in small.held()} == {"ready"}, "routers go on sending to those that left"


async def test_all_that_wait_for_a_version_share_one_load(pool: Callable[..., Pool], store: Store) -> None:
    small = pool(room=1)
    small.register([spec("a"), spec("b")])
    until_settled(small)
    loads = len(store.opened)
    store.gate.clear()
    waiting = [asyncio.create_task(answers(small, "a")) for _ in range(40)]
    await asyncio.sleep(0)
    store.gate.set()
    served = await asyncio.gather(*waiting)
    assert len(store.opened) == loads + 1
    assert len({id(one) for one in served}) == 1


async def test_a_request_waits_for_a_load_until_its_deadline_and_a_version_for_so_many(
    pool: Callable[..., Pool], store: Store
) -> None:
    small = pool(room=1, max_waiting=2)
    small.register([spec("a"), spec("b")])
    until_settled(small)
    store.gate.clear()
    with pytest.raises(DeadlineExceeded):
        await small.woken("a", 1, time.monotonic() + 0.02)
    waiting = [asyncio.create_task(answers(small, "a")) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="wait for version 1"):
        await small.woken("a", 1, time.monotonic() + 20)
    store.gate.set()
    await asyncio.gather(*waiting)


async def test_a_version_that_leaves_memory_answers_what_it_has(pool: Callable[..., Pool]) -> None:
    small = pool(room=1)
    small.register([spec("a")])
    until_settled(small)
    served = await answers(small, "a")
    small.register([spec("b")])
    until_settled(small)
    assert small.serving("a", 1) is None
    got = await served.batcher.predict(X, rows=1, wanted=("y",), deadline=time.monotonic() + 20)
    assert got.outputs["y"].tolist() == [[2.0, 2.0]]


async def test_code_and_what_does_not_load_fail_alone(pool: Callable[..., Pool], store: Store) -> None:
    store.refused = {"broken"}
    some = pool()
    some.register([spec("app", "ray-serve"), spec("broken"), spec("fine")])
    assert until_settled(some) == {"app": "failed", "broken": "failed", "fine": "ready"}
    reasons = {held.model: held.reason for held in some.held()}
    assert "isolation dedicated" in reasons["app"]
    assert reasons["broken"] == "it is broken"
    with pytest.raises(Unavailable):
        some.serving("broken", 1)
    store.refused = set()
    some.register([spec("broken")])
    assert until_settled(some)["broken"] == "ready", "it is tried again when it is asked for again"


def test_a_version_counts_for_what_it_grew_the_process_by_within_what_its_file_makes_likely() -> None:
    mib = 1 << 20
    assert charged_bytes(0, 0) == FLOOR_BYTES
    assert charged_bytes(20 * mib, 10 * mib) == 20 * mib
    assert charged_bytes(5 * mib, 10 * mib) == 10 * mib + FLOOR_BYTES
    assert charged_bytes(500 * mib, 10 * mib) == 81 * mib, "a burst of requests came meanwhile"
    assert charged_bytes(20 * mib, 10 * mib, before=40 * mib) == 30 * mib


async def test_a_version_larger_than_the_pool_is_refused_with_the_way_out(pool: Callable[..., Pool]) -> None:
    some = pool(room=10)
    large = spec("large").model_copy(update={"artifact": ArtifactRef(digest="sha256:" + "0" * 64, size_bytes=1 << 30)})
    assert some.load(large).state == "failed"
    assert "isolation dedicated" in some.held()[0].reason


async def test_a_version_that_is_let_go_is_unknown_and_may_come_again(pool: Callable[..., Pool]) -> None:
    some = pool()
    some.register([spec("a"), spec("b")])
    until_settled(some)
    await asyncio.to_thread(some.unload, "a", 1)
    with pytest.raises(NotFound):
        some.serving("a", 1)
    assert [held.model for held in some.held()] == ["b"]
    some.register([spec("a")])
    until_settled(some)
    await answers(some, "a")


def test_two_hundred_real_models_answer_over_http_from_one_process_with_few_threads(
    blobs: Any, start_host: Any, doubling: bytes
) -> None:
    ref = blobs.put(doubling)
    loads = [blobs.spec(ref, "onnx", SIGNATURE, model=f"m{number}", threads=4) for number in range(200)]
    client = start_host(*loads, pool_memory_mib=16)
    assert {v["state"] for v in client.host.identity()["versions"]} == {"ready"}
    before = threading.active_count()
    body = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[1,2]}]}'
    for number in range(200):
        answer = client.infer(body, path=f"/v2/models/m{number}/versions/1/infer")
        assert answer.json()["outputs"][0]["data"] == [2.0, 4.0]
    assert threading.active_count() <= before + 6
    memory = client.host.memory()
    assert memory["versions"] == 200
    assert 16 <= memory["resident"] < 200, "not all fit at a time"
