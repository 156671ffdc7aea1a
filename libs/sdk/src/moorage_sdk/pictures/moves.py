"""Nodes as they are once replicas have moved, and as they are summed up."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from moorage_common.contracts.answers import Moved, NodeView, Seat

DEVICE_MILLI = 1000


def moved(nodes: Sequence[NodeView], moves: Iterable[Moved]) -> list[NodeView]:
    """`nodes` after `moves`. A move of a replica or to a node that is not among them changes what is there only."""
    seats = {seat.host_id: seat for node in nodes for seat in seats_of(node) if seat.host_id}
    standing = {node.name: node for node in nodes}
    for move in moves:
        seat = seats.get(move.host_id)
        if seat is None:
            continue
        for name, change in ((move.from_node, _without), (move.to_node, _with)):
            if name in standing:
                standing[name] = change(standing[name], seat, move)
    return [standing[node.name] for node in nodes]


def changed(nodes: Sequence[NodeView], moves: Iterable[Moved]) -> list[NodeView]:
    """Those of `nodes` that `moves` touch."""
    touched = {name for move in moves for name in (move.from_node, move.to_node)}
    return [node for node in nodes if node.name in touched]


def seats_of(node: NodeView) -> list[Seat]:
    """Every replica of the node; one of several devices once for each."""
    return [*(seat for device in node.devices for seat in device.seats), *node.seats]


def _without(node: NodeView, seat: Seat, move: Moved) -> NodeView:
    def left(seats: list[Seat]) -> list[Seat]:
        return [one for one in seats if one.host_id != seat.host_id]

    devices = [
        device.model_copy(
            update={
                "seats": left(device.seats),
                "free_milli": device.free_milli + seat.gpu_milli,
                "free_mib": None if device.free_mib is None else device.free_mib + seat.gpu_mem_mib,
            }
        )
        if device.device in move.from_devices
        else device
        for device in node.devices
    ]
    return node.model_copy(update={"devices": devices, "seats": left(node.seats)})


def _with(node: NodeView, seat: Seat, move: Moved) -> NodeView:
    there = seat.model_copy(update={"devices": move.to_devices, "gpu_milli": move.gpu_milli or seat.gpu_milli})
    if not move.to_devices:
        return node.model_copy(update={"seats": [*node.seats, there]})
    devices = [
        device.model_copy(
            update={
                "seats": [*device.seats, there],
                "free_milli": device.free_milli - there.gpu_milli,
                "free_mib": None if device.free_mib is None else device.free_mib - there.gpu_mem_mib,
            }
        )
        if device.device in move.to_devices
        else device
        for device in node.devices
    ]
    return node.model_copy(update={"devices": devices})


@dataclass(frozen=True, slots=True)
class Totals:
    """`held_milli` of `devices` whole ones; `free_devices` have nothing on them."""

    nodes: int
    devices: int
    held_milli: int
    free_devices: int
    drained: int

    @classmethod
    def of(cls, nodes: Sequence[NodeView]) -> "Totals":
        devices = [device for node in nodes for device in node.devices]
        return cls(
            nodes=len(nodes),
            devices=len(devices),
            held_milli=sum(DEVICE_MILLI - device.free_milli for device in devices),
            free_devices=sum(device.free_milli == DEVICE_MILLI for device in devices),
            drained=sum(node.drained for node in nodes),
        )

    def told(self) -> str:
        """One line."""
        share = f", {100 * self.held_milli / (DEVICE_MILLI * self.devices):.1f} % held" if self.devices else ""
        drained = f", {counted(self.drained, 'node')} drained" if self.drained else ""
        return (
            f"{counted(self.nodes, 'node')}, {counted(self.devices, 'GPU')}{share}, "
            f"{self.free_devices} wholly free{drained}"
        )


def counted(number: int, thing: str) -> str:
    """`1 node`, `2 nodes`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def fraction(milli: int) -> str:
    """500 -> `0.5`, 1000 -> `1`."""
    return f"{milli / DEVICE_MILLI:g}"


def plain(text: str, most: int = 64) -> str:
    """`text` fit for a terminal: what is not printable becomes `?`, so that no name can carry an escape sequence."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in text)
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def named(seat: Seat) -> str:
    """`tenant/model v1`, or `others` where the seat bears no name."""
    return f"{plain(seat.tenant)}/{plain(seat.model)} v{seat.version}" if seat.model else "others"
