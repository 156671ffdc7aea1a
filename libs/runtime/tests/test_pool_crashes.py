"""A pool outlives the version that brings its process down: real processes, real segmentation faults."""

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from moorage_common.contracts import host_calls
from moorage_common.contracts.tensors import Signature, TensorSpec
from moorage_runtime.config import HostConfig

from .deadly_format import KILL, SEGFAULT, WAIT

pytestmark = pytest.mark.timeout(120)

SIGNATURE = Signature(
    inputs=[TensorSpec(name="x", datatype="FP32", shape=[-1, 1])],
    outputs=[TensorSpec(name="y", datatype="FP32", shape=[-1, 1])],
)


@dataclass
class Pooled:
    """One process of a pooled host. Ray would start the next."""

    process: subprocess.Popen[str]
    identity: dict[str, Any]
    journal: Path

    def infer(self, model: str, x: float) -> httpx.Response:
        return httpx.post(
            f"http://{self.identity['address']}/v2/models/{model}/versions/1/infer",
            json={"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [x]}]},
            headers={host_calls.TOKEN: self.identity["token"], host_calls.TENANT: "demo"},
            trust_env=False,
            timeout=30,
        )

    def dies_of(self, model: str, x: float) -> int:
        with pytest.raises(httpx.TransportError):
            self.infer(model, x)
        return self.process.wait(20)

    @contextlib.contextmanager
    def at_work(self, *models: str) -> Iterator[None]:
        """While these answer requests that do not end before the process does."""

        def ask(model: str) -> None:
            with pytest.raises(httpx.TransportError):
                self.infer(model, WAIT)

        threads = [threading.Thread(target=ask, args=(model,)) for model in models]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 20
        while sum(self.journal.read_bytes()[::128]) < 2 * len(models):  # 2 is a predict
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield
        for thread in threads:
            thread.join(20)

    @property
    def states(self) -> dict[str, str]:
        return {v["model"]: v["state"] for v in self.identity["versions"]}

    def reason(self, model: str) -> str:
        return next(str(v["reason"]) for v in self.identity["versions"] if v["model"] == model)


Start = Callable[..., Pooled]


@pytest.fixture
def start(blobs: Any, tmp_path: Path) -> Iterator[Start]:
    """Start a process of one and the same host; the models are named after what their files say."""
    processes: list[subprocess.Popen[str]] = []
    journal = tmp_path / "cache" / "pools" / "h1" / "at-work"

    def begin(**texts: str) -> Pooled:
        loads = [
            blobs.spec(blobs.put(text.encode()), "lightgbm", SIGNATURE, model=name) for name, text in texts.items()
        ]
        config = HostConfig(
            host_id="h1", tenant="demo", cache_dir=str(tmp_path / "cache"), loads=loads, pool_memory_mib=64
        )
        command = [sys.executable, str(Path(__file__).with_name("deadly_format.py")), "-"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(config.model_dump_json())
        process.stdin.close()
        line = process.stdout.readline()
        if not line:
            assert process.wait(20) < 0
            return Pooled(process, {"versions": []}, journal)
        return Pooled(process, json.loads(line), journal)

    yield begin
    for process in processes:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def test_the_version_whose_predict_crashes_the_process_is_failed_and_its_neighbours_answer(start: Start) -> None:
    models = {"good": "fine", "other": "fine 2", "bad": "predict"}
    first = start(**models)
    assert set(first.states.values()) == {"ready"}
    with first.at_work("good", "other"):
        assert first.dies_of("bad", SEGFAULT) == -11

    second = start(**models)
    assert second.states == {"good": "ready", "other": "ready", "bad": "failed"}
    assert "Segmentation fault" in second.reason("bad")
    assert second.infer("good", 3.0).json()["outputs"][0]["data"] == [6.0]
    assert second.infer("bad", 3.0).status_code == 503


def test_the_version_whose_load_crashes_the_process_is_failed_and_the_others_load(start: Start) -> None:
    models = {"bad": "load", "good": "fine"}
    assert start(**models).process.returncode == -11
    second = start(**models)
    assert second.states == {"bad": "failed", "good": "ready"}
    assert "loading it" in second.reason("bad")


def test_a_version_whose_process_is_killed_twice_while_it_alone_answers_is_failed(start: Start) -> None:
    models = {"good": "fine", "bad": "predict"}
    assert start(**models).dies_of("bad", KILL) == -9
    second = start(**models)
    assert second.states == {"good": "ready", "bad": "ready"}, "once may be the operator's doing"
    assert second.infer("bad", 2.0).status_code == 200
    assert second.dies_of("bad", KILL) == -9
    assert start(**models).states == {"good": "ready", "bad": "failed"}


def test_a_suspect_among_several_is_found_at_the_next_end_and_the_others_never_stop(start: Start) -> None:
    models = {"good": "fine", "other": "fine 2", "bad": "predict"}
    first = start(**models)
    with first.at_work("good", "other"):
        assert first.dies_of("bad", KILL) == -9
    second = start(**models)
    assert set(second.states.values()) == {"ready"}
    assert all(second.infer(name, 1.0).status_code == 200 for name in models)
    assert second.dies_of("bad", KILL) == -9
    assert start(**models).states == {"good": "ready", "other": "ready", "bad": "failed"}
