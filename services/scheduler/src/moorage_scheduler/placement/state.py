"""The planner's own account of a cluster: devices, CPU and memory, whole and taken.

Ray holds GPU fractions only; the rest of a node is counted here and rebuilt from what runs.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from moorage_common.contracts.desired import Resources

DEVICE_MILLI = 1000


@dataclass(frozen=True)
class NodeSize:
    """What a node has in all. A device memory of 0 MiB is unknown, and then not enforced."""

    name: str
    devices: int
    cpu_milli: int
    mem_mib: int
    gpu_model: str = ""
    device_mem_mib: int = 0


@dataclass(frozen=True)
class Ask:
    """One replica that wants a place."""

    tenant: str
    model: str
    version: int
    resources: Resources

    @property
    def deployment(self) -> tuple[str, str]:
        return (self.tenant, self.model)

    def device_milli(self) -> int:
        """Thousandths it takes of each device; more than one device means whole ones. 0 without a GPU."""
        if self.resources.gpu_milli == 0:
            return 0
        return DEVICE_MILLI if self.resources.devices > 1 else self.resources.gpu_milli

    def device_mib(self, node: "NodeSize") -> int:
        """MiB it takes of each device of `node`: what it says, else the same share as its milli."""
        if self.resources.gpu_mem_mib:
            return self.resources.gpu_mem_mib
        return node.device_mem_mib * self.device_milli() // DEVICE_MILLI


@dataclass(frozen=True)
class Held:
    """A replica that has a place, as long as its process may live there."""

    ask: Ask
    node: str
    devices: tuple[int, ...]


@dataclass(frozen=True)
class Device:
    index: int
    free_milli: int
    free_mib: int
    deployments: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True)
class Node:
    """A node with what is free of it. Free amounts are negative where more runs than fits (a node that shrank)."""

    size: NodeSize
    devices: tuple[Device, ...]
    free_cpu_milli: int
    free_mem_mib: int

    @property
    def name(self) -> str:
        return self.size.name


@dataclass(frozen=True)
class ClusterState:
    """Nodes in a fixed order, which breaks ties."""

    nodes: tuple[Node, ...]


def account(sizes: Iterable[NodeSize], held: Iterable[Held]) -> ClusterState:
    """The state of a cluster of `sizes` in which `held` runs. What sits on a node that is gone is left out."""
    by_node: dict[str, list[Held]] = defaultdict(list)
    for place in held:
        by_node[place.node].append(place)
    return ClusterState(tuple(_node(size, by_node[size.name]) for size in sorted(sizes, key=lambda size: size.name)))


def _node(size: NodeSize, held: list[Held]) -> Node:
    return Node(
        size=size,
        devices=tuple(_device(size, index, held) for index in range(size.devices)),
        free_cpu_milli=size.cpu_milli - sum(place.ask.resources.cpu_milli for place in held),
        free_mem_mib=size.mem_mib - sum(place.ask.resources.host_mem_mib for place in held),
    )


def _device(size: NodeSize, index: int, held: list[Held]) -> Device:
    here = [place.ask for place in held if index in place.devices]
    return Device(
        index=index,
        free_milli=DEVICE_MILLI - sum(ask.device_milli() for ask in here),
        free_mib=size.device_mem_mib - sum(ask.device_mib(size) for ask in here),
        deployments=frozenset(ask.deployment for ask in here),
    )
