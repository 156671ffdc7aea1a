"""Plots of simulated runs, as SVG (the same input gives the same bytes) or PNG by the file's ending."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from moorage_common.errors import Unavailable
from moorage_scheduler.simulate.record import Sample

HOUR_S = 3600.0
_COLOURS = ("#0b6e99", "#d1495b", "#edae49", "#66a182", "#5f4b8b", "#2e4057")
_STYLE = {
    "svg.hashsalt": "moorage",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
}

Line = tuple[Sequence[float], Sequence[float]]
"""x and y of equal length."""


def drawing() -> ModuleType:
    """matplotlib, without a window.

    Raises:
        Unavailable: it is not installed.
    """
    try:
        matplotlib = importlib.import_module("matplotlib")
    except ModuleNotFoundError as error:
        raise Unavailable(
            "plots need matplotlib; run: pip install 'moorage-scheduler[simulate]', or leave them out with --no-plots",
            code="plots_unavailable",
        ) from error
    matplotlib.use("Agg")
    return matplotlib


def lines(panels: Sequence[tuple[str, str, Mapping[str, Line]]], x_label: str, path: Path, title: str = "") -> None:
    """Draw panels one under the other, each a (title, y label, lines by name), over one x axis."""
    matplotlib = drawing()
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    with matplotlib.rc_context(_STYLE):
        figure, axes = pyplot.subplots(
            len(panels), 1, sharex=True, squeeze=False, figsize=(7.5, 0.6 + 2.1 * len(panels)), layout="constrained"
        )
        for axis, (name, y_label, drawn) in zip(axes[:, 0], panels, strict=True):
            for (label, (x, y)), colour in zip(drawn.items(), _COLOURS * len(drawn), strict=False):
                marked = "o" if len(x) <= 24 else None
                axis.plot(x, y, label=label, color=colour, linewidth=1.4, marker=marked, markersize=3)
            axis.set_title(name, loc="left", fontsize=9)
            axis.set_ylabel(y_label)
            axis.set_ylim(bottom=0)
            if len(drawn) > 1:
                axis.legend(frameon=False, fontsize=8)
        axes[-1, 0].set_xlabel(x_label)
        if title:
            figure.suptitle(title)
        _save(figure, path)
        pyplot.close(figure)


def bars(
    groups: Sequence[str], series: Mapping[str, Sequence[float]], y_label: str, path: Path, title: str = ""
) -> None:
    """Draw `series` side by side in each of `groups`, with their figures."""
    matplotlib = drawing()
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    with matplotlib.rc_context(_STYLE):
        figure, axis = pyplot.subplots(figsize=(7.5, 3.2), layout="constrained")
        width = 0.8 / len(series)
        for number, (label, values) in enumerate(series.items()):
            left = [at - 0.4 + width * (number + 0.5) for at in range(len(groups))]
            drawn = axis.bar(left, values, width * 0.92, label=label, color=_COLOURS[number % len(_COLOURS)])
            axis.bar_label(drawn, fmt="%.2f", fontsize=8)
        axis.set_xticks(range(len(groups)), groups)
        axis.set_ylabel(y_label)
        axis.legend(frameon=False, fontsize=8)
        axis.grid(visible=False, axis="x")
        if title:
            axis.set_title(title, loc="left", fontsize=9)
        _save(figure, path)
        pyplot.close(figure)


def series(runs: Mapping[str, Sequence[Sample]], path: Path) -> None:
    """Allocation, queue, lost demand and moves of `runs` (samples by policy) over time."""
    over: dict[str, dict[str, Line]] = {name: {} for name in ("allocation", "queue", "lost", "moves")}
    for policy, samples in runs.items():
        hours = [sample.at_s / HOUR_S for sample in samples]
        over["allocation"][policy] = (hours, [_pct(s.allocated_milli, s.capacity_milli) for s in samples])
        over["queue"][policy] = (hours, [s.waiting_milli / 1000 for s in samples])
        over["lost"][policy] = (hours, [_pct(s.lost_milli_so_far, s.offered_milli_so_far) for s in samples])
        over["moves"][policy] = (hours, [float(s.moves_so_far) for s in samples])
    lines(
        [
            ("Allocated GPU", "% of capacity", over["allocation"]),
            ("Asked for by replicas that wait", "GPUs", over["queue"]),
            ("Lost demand so far", "% of GPU demand", over["lost"]),
            ("Moves so far", "moves", over["moves"]),
        ],
        "hours",
        path,
    )


def _save(figure: Any, path: Path) -> None:
    dateless = {"Date": None, "Creator": None} if path.suffix == ".svg" else {"Software": None}
    figure.savefig(path, metadata=dateless, dpi=140)
    if path.suffix == ".svg":
        lines = path.read_text().splitlines()
        path.write_text("\n".join(line.rstrip() for line in lines) + "\n")


def _pct(part: float, whole: float) -> float:
    return 100 * part / whole if whole else 0.0
