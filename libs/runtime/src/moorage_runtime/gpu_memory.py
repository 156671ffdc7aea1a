"""How much GPU memory this process really takes, read from the driver, against what its version asked for.

Nothing but MIG keeps a process from taking a device's memory: an ask is a promise, and this is where it is held to it.
"""

import os
from collections.abc import Sequence
from typing import Protocol

import structlog

from moorage_common.errors import Unprocessable

log = structlog.get_logger()

MIB = 1024 * 1024


class GpuMemory(Protocol):
    """Reads what a process takes of GPU memory."""

    def used_mib(self, device: str) -> int | None:
        """MiB that this process holds of one device; None where that cannot be known.

        Args:
            device: a number or UUID as CUDA_VISIBLE_DEVICES has it.
        """
        ...


class Unmeasured:
    """On machines without NVIDIA's driver or its Python binding."""

    def used_mib(self, device: str) -> int | None:
        return None


class Nvml:
    """NVIDIA's management library.

    It names processes by the numbers they have on the machine: in a container with its own numbers this process is not
    found, and nothing is known.
    """

    def __init__(self) -> None:
        """Raises Exception of one kind or another where there is no driver."""
        import pynvml  # noqa: PLC0415 - optional

        self._nvml = pynvml
        pynvml.nvmlInit()

    def used_mib(self, device: str) -> int | None:
        nvml = self._nvml
        try:
            if device.isdigit():
                handle = nvml.nvmlDeviceGetHandleByIndex(int(device))
            else:
                handle = nvml.nvmlDeviceGetHandleByUUID(device)
            own = [one for one in nvml.nvmlDeviceGetComputeRunningProcesses(handle) if one.pid == os.getpid()]
        except nvml.NVMLError as error:
            log.warning("GPU memory not read", device=device, error=str(error))
            return None
        known = [int(one.usedGpuMemory) for one in own if one.usedGpuMemory is not None]
        return sum(known) // MIB if known else None


def gpu_memory() -> GpuMemory:
    """The driver's word where there is one."""
    try:
        return Nvml()
    except Exception as error:  # noqa: BLE001 - no binding, no library, no driver: each raises its own
        log.debug("GPU memory is not measured", reason=str(error))
        return Unmeasured()


def visible_devices() -> list[str]:
    """The devices that this process may use; none where nothing was said."""
    parts = [part.strip() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    return [part for part in parts if part not in ("", "-1")]


def hold_to(asked_mib: int, memory: GpuMemory, devices: Sequence[str]) -> None:
    """Nothing, if this process takes at most what was asked of each device, or nobody knows.

    Args:
        asked_mib: of each device; 0 asks for no limit.

    Raises:
        Unprocessable: `gpu_memory_over_ask`, with both numbers and what to set.
    """
    for device in devices if asked_mib else ():
        used = memory.used_mib(device)
        if used is not None and used > asked_mib:
            raise Unprocessable(
                f"loaded and run once, it takes {used} MiB of GPU {device} and asked for {asked_mib}: set gpu_mem_mib "
                f"to at least {used} (CUDA's own context in the process counts), or make the model smaller",
                code="gpu_memory_over_ask",
            )
