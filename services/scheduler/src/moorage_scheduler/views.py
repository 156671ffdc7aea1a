"""Nodes, devices and who sits where, as operators and tenants may see them. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from moorage_common.contracts.answers import DeviceView, Nodes, NodeView, Seat, Waiting
from moorage_common.contracts.desired import ReplicaState
from moorage_scheduler.placement.state import ClusterState, Held, NodeSize


@dataclass(frozen=True)
class Snapshot:
    """A state at a moment, copied in no time, so that a view of it can be made beside what changes it.

    The free amounts are lists: of each node, and for devices of each of its devices.
    """

    sizes: tuple[NodeSize, ...]
    held: Mapping[str, Held]
    free_milli: list[list[int]]
    free_mib: list[list[int]]
    free_cpu: list[int]
    free_mem: list[int]
    closed: list[bool]

    @classmethod
    def of(cls, state: ClusterState) -> "Snapshot":
        arrays = (state.free_milli, state.free_mib, state.free_cpu, state.free_mem, state.closed)
        return cls(state.sizes, dict(state.held), *(array.tolist() for array in arrays))


def nodes_view(
    snapshot: Snapshot,
    states: Mapping[str, ReplicaState],
    waiting: Iterable[Waiting],
    left: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> Nodes:
    """All of it.

    Args:
        states: of each replica that has one; one that was only just given its place has none.
        left: by drained node and replica, why it is still there.
    """
    by_node: defaultdict[str, list[tuple[str, Held]]] = defaultdict(list)
    for replica, held in snapshot.held.items():
        by_node[held.node].append((replica, held))
    nodes = [
        _node(snapshot, at, [_seat(replica, held, size, states.get(replica)) for replica, held in by_node[size.name]])
        for at, size in enumerate(snapshot.sizes)
    ]
    told = [node.model_copy(update={"left": dict(left[node.name])}) if node.name in left else node for node in nodes]
    return Nodes(nodes=told, waiting=list(waiting))


def _node(snapshot: Snapshot, at: int, seats: list[Seat]) -> NodeView:
    size = snapshot.sizes[at]
    return NodeView(
        name=size.name,
        gpu_model=size.gpu_model,
        labels=dict(size.labels),
        drained=snapshot.closed[at],
        cpu_milli=size.cpu_milli,
        free_cpu_milli=snapshot.free_cpu[at],
        mem_mib=size.mem_mib,
        free_mem_mib=snapshot.free_mem[at],
        devices=[
            DeviceView(
                device=device,
                free_milli=snapshot.free_milli[at][device],
                mem_mib=size.device_mem_mib or None,
                free_mib=snapshot.free_mib[at][device] if size.device_mem_mib else None,
                seats=[seat for seat in seats if device in seat.devices],
            )
            for device in range(size.devices)
        ],
        seats=[seat for seat in seats if not seat.devices],
    )


def granted_milli(held: Held, size: NodeSize) -> int:
    """Thousandths that a replica holds of each of its devices, on a node of `size`."""
    if not held.devices:
        return 0
    return held.ask.device_milli(size) if held.gpu_milli is None else held.gpu_milli


def _seat(replica: str, held: Held, size: NodeSize, state: ReplicaState | None) -> Seat:
    return Seat(
        host_id=replica,
        tenant=held.ask.tenant,
        model=held.ask.model,
        version=held.ask.version,
        state=state,
        devices=list(held.devices),
        gpu_milli=granted_milli(held, size),
        gpu_mem_mib=held.ask.device_mib(size) if held.devices else 0,
        scheduling_class="scavenger" if held.ask.scheduling_class == "scavenger" else "standard",
        pinned=held.pinned,
    )


def seen_by(nodes: Nodes, tenant: str) -> Nodes:
    """What `tenant` may see of `nodes`: its own replicas, and of all others on a device one sum without a name."""
    return Nodes(
        nodes=[
            node.model_copy(
                update={
                    "devices": [
                        device.model_copy(update={"seats": _own_and_others(device, tenant)}) for device in node.devices
                    ],
                    "seats": [seat for seat in node.seats if seat.tenant == tenant],
                    "left": {},
                }
            )
            for node in nodes.nodes
        ],
        waiting=[one for one in nodes.waiting if one.tenant == tenant],
    )


def _own_and_others(device: DeviceView, tenant: str) -> list[Seat]:
    own = [seat for seat in device.seats if seat.tenant == tenant]
    others = [seat for seat in device.seats if seat.tenant != tenant]
    if not others:
        return own
    summed = Seat(
        devices=[device.device],
        gpu_milli=sum(seat.gpu_milli for seat in others),
        gpu_mem_mib=sum(seat.gpu_mem_mib for seat in others),
    )
    return [*own, summed]
