"""What CUDA's Multi-Process Service (MPS) is told to hold one process to.

Only where an operator runs its control daemon on the nodes. The variables are read when a process first uses CUDA.
"""

import math
from collections.abc import Mapping

from pydantic import Field

from moorage_common.contracts.model import Contract


class GpuCaps(Contract):
    """A process's part of each of its devices."""

    gpu_milli: int = Field(ge=1, le=1000)
    gpu_mem_mib: int = Field(default=0, ge=0, description="0 is no limit.")
    devices: int = Field(default=1, ge=1)


def environment(caps: GpuCaps | None) -> Mapping[str, str]:
    """Variables for the process: a share of the processors, rounded up to a per cent, and a limit of memory.

    Devices are numbered as the process sees them.
    """
    if caps is None:
        return {}
    share = {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": str(math.ceil(caps.gpu_milli / 10))}
    if not caps.gpu_mem_mib:
        return share
    limits = ",".join(f"{device}={caps.gpu_mem_mib}M" for device in range(caps.devices))
    return {**share, "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": limits}
