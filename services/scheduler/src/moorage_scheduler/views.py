"""Nodes, devices and who sits where, as operators and tenants may see them. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from moorage_common.contracts.answers import DeviceView, Nodes, NodeView, Seat, Waiting
from moorage_common.contracts.desired import ReplicaState
from moorage_scheduler.placement.state import ClusterState, Held, Node, NodeSize


def nodes_view(state: ClusterState, states: Mapping[str, ReplicaState], waiting: Iterable[Waiting]) -> Nodes:
    """All of it.

    Args:
        states: of each replica that has one; one that was only just given its place has none.
    """
    by_node: defaultdict[str, list[tuple[str, Held]]] = defaultdict(list)
    for replica, held in state.held.items():
        by_node[held.node].append((replica, held))
    nodes = [
        _node(node, [_seat(replica, held, node.size, states.get(replica)) for replica, held in by_node[node.name]])
        for node in state.nodes
    ]
    return Nodes(nodes=nodes, waiting=list(waiting))


def _node(node: Node, seats: list[Seat]) -> NodeView:
    size = node.size
    return NodeView(
        name=size.name,
        gpu_model=size.gpu_model,
        labels=dict(size.labels),
        drained=node.closed,
        cpu_milli=size.cpu_milli,
        free_cpu_milli=node.free_cpu_milli,
        mem_mib=size.mem_mib,
        free_mem_mib=node.free_mem_mib,
        devices=[
            DeviceView(
                device=device.index,
                free_milli=device.free_milli,
                mem_mib=size.device_mem_mib or None,
                free_mib=device.free_mib if size.device_mem_mib else None,
                seats=[seat for seat in seats if device.index in seat.devices],
            )
            for device in node.devices
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
