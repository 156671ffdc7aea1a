"""What replicas are charged, and what every tenant holds of a cluster.

A replica is charged for what it really got, and a move for nothing: the second place of a replica that moves is left
out of the usage. Of a device it is charged the larger one of its part of the time and its part of the memory: nobody
else can use a device whose memory is taken, whatever is left of its time. Where the memory of a device is not known,
only time is charged.
"""

import functools
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from moorage_scheduler.placement.state import DEVICE_MILLI, Ask, ClusterState, Held, NodeSize

Memories = Mapping[str, Sequence[int]]
"""MiB that a device has, by GPU model: ascending, several where nodes of a model differ."""


class Charge(NamedTuple):
    """What a replica is charged: thousandths of GPU devices, MiB of their memory, CPU milli, MiB of host memory."""

    gpu_milli: int = 0
    gpu_mib: int = 0
    cpu_milli: int = 0
    mem_mib: int = 0

    def plus(self, other: "Charge", sign: int = 1) -> "Charge":
        return Charge(*(mine + sign * its for mine, its in zip(self, other, strict=True)))


@dataclass(frozen=True)
class Capacity:
    """What a cluster has in all; GPUs as (milli, MiB) by model."""

    gpus: Mapping[str, tuple[int, int]]
    cpu_milli: int
    mem_mib: int


def got_milli(held: Held, size: NodeSize) -> int:
    """GPU milli that `held` got on a node of `size`, over all its devices. What it is charged may be more."""
    each = held.ask.device_milli(size) if held.gpu_milli is None else held.gpu_milli
    return each * len(held.devices)


def charge_of(held: Held, size: NodeSize) -> Charge:
    """What `held` is charged on a node of `size`."""
    each = held.ask.device_milli(size) if held.gpu_milli is None else held.gpu_milli
    mib, devices = held.ask.device_mib(size), len(held.devices)
    resources = held.ask.resources
    return Charge(_part_of(each, mib, size) * devices, mib * devices, resources.cpu_milli, resources.host_mem_mib)


def _part_of(milli: int, mib: int, size: NodeSize) -> int:
    """Thousandths of a device of `size` that `milli` and `mib` of it are charged as."""
    return max(milli, DEVICE_MILLI * mib // size.device_mem_mib) if size.device_mem_mib else milli


class Usage:
    """What every tenant holds by GPU model (None: without a GPU); standard replicas apart from scavengers.

    Args:
        memories: of the cluster, to charge what has no place yet.
    """

    def __init__(self, memories: Memories | None = None) -> None:
        self._memories = memories or {}
        self._standard: dict[str, dict[str | None, Charge]] = defaultdict(dict)
        self._scavenger: dict[str, dict[str | None, Charge]] = defaultdict(dict)

    def asked(self, ask: Ask, model: str) -> Charge:
        """What `ask` will be charged on GPUs of `model`: the most that it may come to where their memories differ."""
        demand = ask.shape.demand
        memories = self._memories.get(model) or (0,)
        named = demand.on(_device(model, 0))[1]
        size = _device(model, next((mib for mib in memories if named <= mib), memories[-1]))
        milli, mib = demand.on(size)
        each = _part_of(milli, mib, size)
        return Charge(each * demand.devices, mib * demand.devices, ask.shape.cpu_milli, ask.shape.mem_mib)

    def add(self, ask: Ask, model: str | None, charge: Charge, sign: int = 1) -> None:
        """Charge the tenant of `ask`; with `sign` -1, take the charge back."""
        kept = self._scavenger if ask.scheduling_class == "scavenger" else self._standard
        mine = kept[ask.tenant]
        key = model if charge.gpu_milli else None
        mine[key] = mine.get(key, Charge()).plus(charge, sign)

    def hold(self, held: Held, size: NodeSize, sign: int = 1) -> None:
        self.add(held.ask, size.gpu_model, charge_of(held, size), sign)

    def standard(self, tenant: str) -> Mapping[str | None, Charge]:
        return self._standard.get(tenant, {})

    def scavenger(self, tenant: str) -> Mapping[str | None, Charge]:
        return self._scavenger.get(tenant, {})

    def gpu_milli(self, tenant: str) -> int:
        """Everything the tenant is charged, for scavengers too."""
        both = (self.standard(tenant), self.scavenger(tenant))
        return sum(charge.gpu_milli for kept in both for charge in kept.values())

    def tenants(self) -> set[str]:
        return set(self._standard) | set(self._scavenger)

    def copy(self) -> "Usage":
        other = Usage(self._memories)
        for tenant, mine in self._standard.items():
            other._standard[tenant] = dict(mine)
        for tenant, mine in self._scavenger.items():
            other._scavenger[tenant] = dict(mine)
        return other


@functools.cache
def _device(model: str, mib: int) -> NodeSize:
    return NodeSize("", 0, 0, 0, model, mib)


def memories_of(sizes: Iterable[NodeSize]) -> Memories:
    """What the devices of `sizes` have, as far as it is known."""
    found: dict[str, set[int]] = defaultdict(set)
    for size in sizes:
        if size.devices and size.device_mem_mib:
            found[size.gpu_model].add(size.device_mem_mib)
    return {model: tuple(sorted(mibs)) for model, mibs in found.items()}


def usage_of(state: ClusterState, uncharged: Container[str] = ()) -> Usage:
    """The usage of all that `state` holds, but for the replicas `uncharged`: second places of replicas that move."""
    usage = Usage(memories_of(state.sizes))
    for replica, held in state.held.items():
        at = state.index.get(held.node)
        if at is not None and replica not in uncharged:
            usage.hold(held, state.sizes[at])
    return usage


def capacity_of(sizes: Iterable[NodeSize]) -> Capacity:
    gpus: dict[str, tuple[int, int]] = {}
    cpu = mem = 0
    for size in sizes:
        cpu, mem = cpu + size.cpu_milli, mem + size.mem_mib
        if size.devices:
            milli, mib = gpus.get(size.gpu_model, (0, 0))
            gpus[size.gpu_model] = (milli + DEVICE_MILLI * size.devices, mib + size.device_mem_mib * size.devices)
    return Capacity(gpus, cpu, mem)
