"""Nodes and who sits where, as lines for a terminal."""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from moorage_common.contracts.answers import DeviceView, NodeView, Seat, Waiting
from moorage_sdk.pictures.moves import DEVICE_MILLI, Totals, counted, fraction, named, plain

WIDTH = 40
FULL_NODES_MAX = 32
"""Larger clusters are drawn with a line a node."""
_FREE = "·"
_EIGHTHS = " ▏▎▍▌▋▊▉"
_HEIGHTS = "·▁▂▃▄▅▆▇█"
_SHADES = "█▓▒"
_COLOURS = (33, 208, 71, 170, 220, 44, 203, 105, 149, 180, 39, 212)
"""Of the 256-colour palette, apart from each other on dark and on light."""
_GREY = 245
_RESET = "\x1b[0m"


@dataclass(frozen=True, slots=True)
class Style:
    """How to draw: `width` cells a device; colours only where a terminal shows them."""

    width: int = WIDTH
    colour: bool = False


def draw(nodes: Sequence[NodeView], waiting: Sequence[Waiting] = (), style: Style = Style(), *, full: bool) -> str:
    """A bar a device with who sits on it, or with `full` false a line a node; then the replicas that wait."""
    lines = [Totals.of(nodes).told()]
    if full:
        for node in nodes:
            lines += ["", *_node(node, style)]
    else:
        widest = max((len(plain(node.name)) for node in nodes), default=0)
        models = max((len(plain(node.gpu_model)) for node in nodes), default=0)
        lines += ["", *(_compact(node, widest, models) for node in nodes)]
    return "\n".join([*lines, *_waiting(waiting)]) + "\n"


def _node(node: NodeView, style: Style) -> list[str]:
    cpu = f"CPU {fraction(node.cpu_milli - node.free_cpu_milli)} of {fraction(node.cpu_milli)}"
    memory = f"memory {_gib(node.mem_mib - node.free_mem_mib)} of {_gib(node.mem_mib)}"
    parts = [plain(node.name), plain(node.gpu_model) or "GPU" if node.devices else "", cpu, memory]
    if node.drained:
        parts.append("drained" if not node.replicas() else f"draining, {counted(node.replicas(), 'replica')} left")
    lines = ["  ".join(part for part in parts if part)]
    lines += [_device(device, style) for device in node.devices]
    if node.seats:
        lines.append(f"  CPU {_list(node.seats, style, with_share=False)}")
    return lines


def _device(device: DeviceView, style: Style) -> str:
    held = DEVICE_MILLI - device.free_milli
    over = f" OVER by {fraction(-device.free_milli)}" if device.free_milli < 0 else ""
    memory = ""
    if device.mem_mib is not None and device.free_mib is not None:
        memory = f" {_gib(device.mem_mib - device.free_mib)}/{_gib(device.mem_mib)}"
    who = _list(device.seats, style, with_share=True) if device.seats else "free"
    return f"  {device.device:>3} {bar(device.seats, style)} {fraction(held):>5}{memory}{over}  {who}"


def bar(seats: Sequence[Seat], style: Style) -> str:
    """One device: each seat as long as its share. In colours the edges are exact to an eighth of a cell."""
    return _coloured(seats, style.width) if style.colour else _shaded(seats, style.width)


def _shaded(seats: Sequence[Seat], width: int) -> str:
    """Neighbours differ by their shade; a share of more than nothing has a cell where there is one left."""
    text, total = "", 0
    for number, seat in enumerate(seats):
        total += seat.gpu_milli
        end = min(width, max(len(text) + (seat.gpu_milli > 0), round(total * width / DEVICE_MILLI)))
        text += _SHADES[number % len(_SHADES)] * (end - len(text))
    return text + _FREE * (width - len(text))


def _coloured(seats: Sequence[Seat], width: int) -> str:
    edges: list[tuple[int, int]] = []
    total = 0
    for seat in seats:
        total += seat.gpu_milli
        edges.append((min(width * 8, round(total * width * 8 / DEVICE_MILLI)), colour_of(seat)))
    text, last = "", ""
    for cell in range(width):
        colours, letter = _cell(cell * 8, edges)
        text += letter if colours == last else f"\x1b[0;{colours}m{letter}"
        last = colours
    return text + _RESET


def _cell(start: int, edges: Sequence[tuple[int, int]]) -> tuple[str, str]:
    """Colours and letter of the eighths from `start` on: the first colour up to its edge, over what comes next."""
    here = [(edge, colour) for edge, colour in edges if edge > start]
    if not here:
        return f"38;5;{_GREY}", _FREE
    edge, colour = here[0]
    if edge >= start + 8:
        return f"38;5;{colour}", "█"
    behind = f"48;5;{here[1][1]}" if len(here) > 1 else "49"
    return f"38;5;{colour};{behind}", _EIGHTHS[edge - start]


def colour_of(seat: Seat) -> int:
    """The same for all replicas of a deployment, whoever draws."""
    if not seat.model:
        return _GREY
    return _COLOURS[zlib.crc32(f"{seat.tenant}/{seat.model}".encode()) % len(_COLOURS)]


def _list(seats: Iterable[Seat], style: Style, *, with_share: bool) -> str:
    return ", ".join(_seat(seat, style, with_share=with_share) for seat in seats)


def _seat(seat: Seat, style: Style, *, with_share: bool) -> str:
    name = f"\x1b[38;5;{colour_of(seat)}m{named(seat)}{_RESET}" if style.colour else named(seat)
    marks = [
        seat.state if seat.state not in (None, "ready") else "",
        "scavenger" if seat.scheduling_class == "scavenger" else "",
        "pinned" if seat.pinned else "",
    ]
    share = f" {fraction(seat.gpu_milli)}" if with_share else ""
    noted = ", ".join(mark for mark in marks if mark)
    return f"{name}{share}{f' ({noted})' if noted else ''}"


def _compact(node: NodeView, widest: int, models: int) -> str:
    heights = "".join(_height(device) for device in node.devices)
    held = sum(DEVICE_MILLI - device.free_milli for device in node.devices)
    drained = "  drained" if node.drained else ""
    share = f"{fraction(held)} of {len(node.devices)}" if node.devices else "no GPU"
    return f"{plain(node.name):<{widest}}  {plain(node.gpu_model):<{models}}  {heights:<8}  {share}{drained}".rstrip()


def _height(device: DeviceView) -> str:
    held = min(DEVICE_MILLI, max(0, DEVICE_MILLI - device.free_milli))
    return _HEIGHTS[-(-held * (len(_HEIGHTS) - 1) // DEVICE_MILLI)]


def _waiting(waiting: Sequence[Waiting]) -> list[str]:
    if not waiting:
        return []
    lines = ["", f"{counted(sum(one.replicas for one in waiting), 'replica')} without a place:"]
    for one in waiting:
        name = f"{plain(one.tenant)}/{plain(one.model)} v{one.version}" if one.model else "others"
        why = f": {plain(one.reason, 400)}" if one.reason else ""
        lines.append(f"  {one.replicas} x {name}{why}")
    return lines


def _gib(mib: int) -> str:
    return f"{mib / 1024:.3g}Gi"
