"""Nodes and who sits where, as SVG and as a page that holds it; both stand alone and run nothing."""

import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape, quoteattr

from moorage_common.contracts.answers import DeviceView, NodeView, Seat, Waiting
from moorage_sdk.pictures.moves import DEVICE_MILLI, Totals, fraction, named, plain

_LABEL = 230
_DEVICE = 132
_HEIGHT = 22
_GAP = 6
_ROW = _HEIGHT + 2 * _GAP
_LETTER = 6.2
"""About the width of a letter of the labels, in pixels."""
_STYLE = (
    "text{font:11px ui-monospace,Menlo,Consolas,monospace;fill:#1f2430}"
    ".t{font-size:13px;font-weight:600}.s{fill:#5c6370}.d{fill:#f3f4f6;stroke:#c7cbd1}"
    ".r{stroke:#fff;stroke-width:1}.m{stroke:#111;stroke-width:2}.n{fill:#fff;pointer-events:none}.x{fill:#b42318}"
)


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture of nodes under a title. `marked` replicas are outlined."""

    title: str
    nodes: Sequence[NodeView]
    marked: Collection[str] = field(default_factory=frozenset)

    @property
    def width(self) -> int:
        devices = max((len(node.devices) for node in self.nodes), default=0)
        return _LABEL + max(1, devices) * (_DEVICE + _GAP) + _GAP

    @property
    def height(self) -> int:
        return 44 + len(self.nodes) * _ROW


def svg(panels: Sequence[Panel]) -> str:
    """The panels side by side, as one SVG 1.1 document without an XML declaration, so that HTML can hold it."""
    width, height = sum(panel.width for panel in panels), max(panel.height for panel in panels)
    parts, x = [], 0
    for panel in panels:
        parts += [f'<g transform="translate({x},0)">', *_panel(panel), "</g>"]
        x += panel.width
    box = f'viewBox="0 0 {width} {height}"'
    title = escape("; ".join(f"{plain(panel.title)}: {Totals.of(panel.nodes).told()}" for panel in panels))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" {box} role="img">',
            f"<title>{title}</title>",
            f"<style>{_STYLE}</style>",
            f'<rect width="{width}" height="{height}" fill="#fff"/>',
            *parts,
            "</svg>\n",
        ]
    )


def html(panels: Sequence[Panel], waiting: Sequence[Waiting] = ()) -> str:
    """A page of the picture and a table of the replicas that wait; well-formed XML too."""
    heading = escape(plain(panels[0].title))
    rows = "".join(
        f"<tr><td>{one.replicas}</td><td>{escape(_who(one))}</td><td>{escape(plain(one.reason, 400))}</td></tr>\n"
        for one in waiting
    )
    table = (
        f"<h2>Without a place</h2>\n<table>\n<tr><th>replicas</th><th>of</th><th>why</th></tr>\n{rows}</table>\n"
        if waiting
        else ""
    )
    return (
        '<!DOCTYPE html>\n<html xmlns="http://www.w3.org/1999/xhtml" lang="en">\n<head>\n<meta charset="utf-8"/>\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"/>\n"
        f"<title>{heading}</title>\n"
        "<style>body{font:14px system-ui,sans-serif;margin:24px;color:#1f2430}table{border-collapse:collapse}"
        "td,th{text-align:left;padding:4px 12px 4px 0;border-bottom:1px solid #e1e4e8}svg{max-width:100%;height:auto}"
        f"</style>\n</head>\n<body>\n<h1>{heading}</h1>\n{svg(panels)}{table}</body>\n</html>\n"
    )


def _who(one: Waiting) -> str:
    return f"{plain(one.tenant)}/{plain(one.model)} v{one.version}" if one.model else "others"


def _panel(panel: Panel) -> list[str]:
    parts = [
        _text(_GAP, 18, plain(panel.title), "t"),
        _text(_GAP, 34, Totals.of(panel.nodes).told(), "s"),
    ]
    for row, node in enumerate(panel.nodes):
        parts += _node(node, 44 + row * _ROW, panel.marked)
    return parts


def _node(node: NodeView, y: int, marked: Collection[str]) -> list[str]:
    about = plain(node.gpu_model) if node.devices else f"no GPU, {len(node.seats)} replica(s)"
    kind = "x" if node.drained else "s"
    parts = [
        _text(_GAP, y + 14, plain(node.name, 34), ""),
        _text(_GAP, y + 28, f"{about}{', drained' if node.drained else ''}", kind),
    ]
    for number, device in enumerate(node.devices):
        parts += _device(device, _LABEL + number * (_DEVICE + _GAP), y + _GAP, marked)
    return parts


def _device(device: DeviceView, x: int, y: int, marked: Collection[str]) -> list[str]:
    memory = "" if device.free_mib is None else f", {device.free_mib} MiB free"
    told = escape(f"device {device.device}: {fraction(device.free_milli)} free{memory}")
    parts = [f'<rect class="d" x="{x}" y="{y}" width="{_DEVICE}" height="{_HEIGHT}"><title>{told}</title></rect>']
    taken = 0
    for seat in device.seats:
        start = min(_DEVICE, round(taken * _DEVICE / DEVICE_MILLI))
        taken += seat.gpu_milli
        width = min(_DEVICE, round(taken * _DEVICE / DEVICE_MILLI)) - start
        parts += _seat(seat, x + start, y, width, seat.host_id in marked)
    return parts


def _seat(seat: Seat, x: int, y: int, width: int, is_marked: bool) -> list[str]:
    state = f", {seat.state}" if seat.state not in (None, "ready") else ""
    who = f" ({plain(seat.host_id)}){state}" if seat.host_id else ""
    told = escape(f"{named(seat)}: {fraction(seat.gpu_milli)}{who}")
    kind = "m" if is_marked else "r"
    at = f'x="{x}" y="{y}" width="{width}" height="{_HEIGHT}"'
    shown = plain(seat.model or "others", max(1, int((width - 6) / _LETTER)))
    parts = [f'<rect class="{kind}" {at} fill={quoteattr(fill_of(seat))}><title>{told}</title></rect>']
    if width > 4 * _LETTER:
        parts.append(_text(x + 3, y + 15, shown, "n"))
    return parts


def fill_of(seat: Seat) -> str:
    """The same for all replicas of a deployment, whoever draws."""
    if not seat.model:
        return "#9aa1ab"
    hue = zlib.crc32(f"{seat.tenant}/{seat.model}".encode()) % 360
    return f"hsl({hue},55%,42%)"


def _text(x: float, y: float, shown: str, kind: str) -> str:
    of_class = f' class="{kind}"' if kind else ""
    return f'<text{of_class} x="{x:g}" y="{y:g}">{escape(shown)}</text>'
