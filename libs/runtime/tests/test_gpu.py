"""What is held of GPUs, with memory that is told instead of measured: no GPU is needed."""

import re
from pathlib import Path
from typing import Any

import pytest

from moorage_common.contracts.tensors import Signature, TensorSpec
from moorage_common.errors import Unprocessable
from moorage_runtime.artifacts import ArtifactCache
from moorage_runtime.gpu_caps import GpuCaps, environment
from moorage_runtime.gpu_memory import Unmeasured, gpu_memory, hold_to, visible_devices
from moorage_runtime.versions import Versions

SIGNATURE = Signature(
    inputs=[TensorSpec(name="x", datatype="FP32", shape=[-1, 2])],
    outputs=[TensorSpec(name="y", datatype="FP32", shape=[-1, 2])],
)


class Told:
    """As if the driver said so."""

    def __init__(self, **used_mib: int) -> None:
        self.used = used_mib

    def used_mib(self, device: str) -> int | None:
        return self.used.get(f"gpu{device}")


def test_what_takes_more_gpu_memory_than_it_asked_for_is_refused_with_both_numbers_and_what_to_set() -> None:
    with pytest.raises(Unprocessable, match=re.escape("takes 2310 MiB of GPU 1 and asked for 2000")) as refused:
        hold_to(2000, Told(gpu0=1800, gpu1=2310), ["0", "1"])
    assert refused.value.code == "gpu_memory_over_ask"
    assert "gpu_mem_mib to at least 2310" in refused.value.message


def test_nothing_is_refused_within_the_ask_without_one_or_where_nobody_knows() -> None:
    hold_to(2000, Told(gpu0=2000), ["0"])
    hold_to(0, Told(gpu0=70_000), ["0"])
    hold_to(2000, Told(), ["0"])
    hold_to(2000, Unmeasured(), ["0"])


def test_a_version_that_takes_more_than_it_asked_for_fails_to_load_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blobs: Any, doubling: bytes
) -> None:
    spec = blobs.spec(blobs.put(doubling), "onnx", SIGNATURE, gpu_mem_mib=500)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    versions = Versions("demo", ArtifactCache(tmp_path / "cache"), gpu=Told(gpu0=900))
    assert versions.load(spec).reason.startswith("loaded and run once, it takes 900 MiB")
    assert versions.load(spec.model_copy(update={"gpu_mem_mib": 900})).state == "ready"


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has a GPU")
def test_a_machine_without_a_driver_measures_nothing() -> None:
    assert isinstance(gpu_memory(), Unmeasured)


@pytest.mark.parametrize(("told", "devices"), [("", []), ("-1", []), ("1", ["1"]), ("0, 3", ["0", "3"])])
def test_devices_are_those_that_the_process_may_see(
    told: str, devices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", told)
    assert visible_devices() == devices


def test_mps_gets_the_share_rounded_up_and_the_memory_of_each_device() -> None:
    assert environment(None) == {}
    assert environment(GpuCaps(gpu_milli=333)) == {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "34"}
    assert environment(GpuCaps(gpu_milli=1000, gpu_mem_mib=8000, devices=2)) == {
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "100",
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=8000M,1=8000M",
    }
