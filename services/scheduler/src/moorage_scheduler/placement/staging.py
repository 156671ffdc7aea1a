"""Places set aside, so that two replicas can change places in a full cluster without either being away.

A place is charged like a replica of nobody's, which is how the rest of placement leaves it alone.
"""

from dataclasses import dataclass

import numpy as np

from moorage_common.contracts.desired import Resources
from moorage_scheduler.placement.asks import DEVICE_MILLI, Ask, Held
from moorage_scheduler.placement.state import ClusterState

NOBODY = ""
ONE_IN = 2000
"""Devices of a cluster to one staging place."""
MOST_CPU_MILLI = 16_000
DEPLOYMENT = (NOBODY, "staging")


@dataclass(frozen=True)
class Stage:
    """A staging place with what is free there for one replica: on its device, and of its node's CPU and memory."""

    replica: str
    node: int
    device: int
    milli: int
    mib: int
    cpu: int
    mem: int


def set_aside(state: ClusterState, count: int) -> None:
    """Reserve up to `count` idle devices, each on a node of its own: where a device comes with the most CPU."""
    size_of = state.sizes
    idle = (state.free_milli == DEVICE_MILLI).any(axis=1) & ~state.closed
    share = np.where(idle, state.free_cpu // np.maximum(1, state.device_count), -1)
    for number, at in enumerate((-share).argsort(kind="stable")[:count].tolist()):
        size = size_of[at]
        if share[at] < 0:
            return
        device = int((state.free_milli[at] == DEVICE_MILLI).argmax())
        cpu = max(10, min(MOST_CPU_MILLI, int(share[at])))
        mem = max(64, int(state.free_mem[at]) // max(1, size.devices))
        resources = Resources(gpu_milli=DEVICE_MILLI, cpu_milli=cpu, host_mem_mib=mem)
        held = Held(Ask(*DEPLOYMENT, 0, resources), size.name, (device,), DEVICE_MILLI, pinned=True)
        state.add(f"staging-{number}", held)


def staging_places(state: ClusterState) -> list[Stage]:
    """The places set aside, in the order they were."""
    found: list[Stage] = []
    for replica, held in state.siblings.get(DEPLOYMENT, {}).items():
        at = state.index.get(held.node)
        if at is not None and not state.closed[at]:
            device = held.devices[0]
            resources = held.ask.resources
            milli = int(state.free_milli[at, device]) + DEVICE_MILLI
            mib = int(state.free_mib[at, device]) + held.ask.device_mib(state.sizes[at])
            cpu = int(state.free_cpu[at]) + resources.cpu_milli
            mem = int(state.free_mem[at]) + resources.host_mem_mib
            found.append(Stage(replica, at, device, milli, mib, cpu, mem))
    return found
