"""The simulated cluster: groups of equal nodes, written as `64xT4`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from moorage_common.errors import BadRequest
from moorage_scheduler.placement.state import DEVICE_MILLI, NodeSize

_GROUP = re.compile(r"(?P<gpus>[1-9]\d{0,6})(x(?P<model>[A-Za-z][\w.-]*)(:(?P<mib>\d+))?)?")


@dataclass(frozen=True)
class Host:
    """What nodes have beside GPUs."""

    gpus: int = 8
    cpu_milli_per_gpu: int = 12_000
    mem_mib_per_gpu: int = 49_152


@dataclass(frozen=True)
class Group:
    """`gpus` GPUs of one model; a device memory of 0 MiB is unknown and not enforced."""

    gpus: int
    model: str = ""
    device_mem_mib: int = 0

    @staticmethod
    def parse(text: str) -> "Group":
        """Of `64`, `64xT4` or `64xT4:16000` (MiB of a device)."""
        found = _GROUP.fullmatch(text)
        if found is None:
            raise BadRequest(
                f"{text!r} is no group of GPUs; write 64, 64xT4 or 64xT4:16000 (MiB a device)", code="bad_gpus"
            )
        return Group(int(found["gpus"]), found["model"] or "", int(found["mib"] or 0))


def nodes(groups: Sequence[Group], host: Host) -> list[NodeSize]:
    """The nodes that hold `groups`: full ones, and one with the rest of each group."""
    found: list[NodeSize] = []
    for number, group in enumerate(groups):
        left = group.gpus
        while left:
            here = min(left, host.gpus)
            found.append(
                NodeSize(
                    name=f"{number}-{group.model or 'gpu'}-{len(found):05}",
                    devices=here,
                    cpu_milli=here * host.cpu_milli_per_gpu,
                    mem_mib=here * host.mem_mib_per_gpu,
                    gpu_model=group.model,
                    device_mem_mib=group.device_mem_mib,
                )
            )
            left -= here
    return found


def scaled(groups: Sequence[Group], gpus: int) -> list[Group]:
    """`groups` in their proportions, with `gpus` GPUs together; each keeps at least one."""
    whole = sum(group.gpus for group in groups)
    shares = [max(1, gpus * group.gpus // whole) for group in groups]
    shares[0] += max(0, gpus - sum(shares))
    return [Group(n, group.model, group.device_mem_mib) for n, group in zip(shares, groups, strict=True)]


def capacity_milli(sizes: Sequence[NodeSize]) -> int:
    return sum(size.devices for size in sizes) * DEVICE_MILLI
