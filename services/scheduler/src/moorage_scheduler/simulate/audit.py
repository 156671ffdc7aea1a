"""Whether a cluster's state is sound, counted anew from who sits where, without the arrays that decisions read."""

from collections import defaultdict
from collections.abc import Iterable

from moorage_scheduler.placement.charges import got_milli
from moorage_scheduler.placement.staging import NOBODY
from moorage_scheduler.placement.state import DEVICE_MILLI, ClusterState, Held


class Unsound(AssertionError):
    """More is placed somewhere than there is, or replicas of a version share a device."""


def audit(state: ClusterState, nodes: Iterable[str] | None = None, beside: Iterable[Held] = ()) -> None:
    """Raises Unsound where a device has too much milli or MiB, a node too much CPU or memory, or a version's replicas
    share a device.

    Args:
        nodes: only these.
        beside: counted too, and in exchange for what is set aside: second places of replicas that move.
    """
    wanted = None if nodes is None else set(nodes)
    by_node: dict[str, list[Held]] = defaultdict(list)
    moving = tuple(beside)
    for held in (*state.held.values(), *moving):
        set_aside = bool(moving) and held.ask.tenant == NOBODY
        if held.node in state.index and not set_aside and (wanted is None or held.node in wanted):
            by_node[held.node].append(held)
    for name, here in by_node.items():
        size = state.sizes[state.index[name]]
        if sum(held.ask.resources.cpu_milli for held in here) > size.cpu_milli:
            raise Unsound(f"node {name} has too much CPU placed on it")
        if sum(held.ask.resources.host_mem_mib for held in here) > size.mem_mib:
            raise Unsound(f"node {name} has too much memory placed on it")
        _devices(state, name, here)


def _devices(state: ClusterState, name: str, here: list[Held]) -> None:
    size = state.sizes[state.index[name]]
    milli: dict[int, int] = defaultdict(int)
    mib: dict[int, int] = defaultdict(int)
    versions: set[tuple[int, str, str, int]] = set()
    for held in here:
        for device in held.devices:
            milli[device] += got_milli(held, size) // len(held.devices)
            mib[device] += held.ask.device_mib(size)
            version = (device, held.ask.tenant, held.ask.model, held.ask.version)
            if version in versions:
                raise Unsound(f"device {device} of {name} has two replicas of one version")
            versions.add(version)
    for device, taken in milli.items():
        if taken > DEVICE_MILLI or device >= size.devices:
            raise Unsound(f"device {device} of {name} has {taken} milli placed on it")
        if size.device_mem_mib and mib[device] > size.device_mem_mib:
            raise Unsound(f"device {device} of {name} has {mib[device]} MiB placed on it")
