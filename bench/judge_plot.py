"""Detection against false rollbacks, as a picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

PAIRS = (
    ("0.1 %, healthy", "0.1 % -> 2.1 %", "o"),
    ("1 %, healthy", "1 % -> 1.5 %", "v"),
    ("1 %, healthy", "1 % -> 3 %", "s"),
    ("5 %, healthy", "5 % -> 10 %", "^"),
    ("1 %, healthy, outages of both", "1 % -> 3 %, outages of both", "D"),
)
COLOURS = {
    "moorage": "#0b7285",
    "z-test each second": "#868e96",
    "flagger": "#e8590c",
    "argo rollouts": "#9c36b5",
    "kayenta, once after an hour": "#5c940d",
}


def draw(others: Mapping[str, Mapping[str, Mapping[str, Any]]], path: Path) -> None:
    """Write an SVG: each rule's false rollbacks and detection, by kind of traffic.

    Args:
        others: by traffic and rule, as `judge_others.compared`.
    """
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams |= {"svg.hashsalt": "moorage", "svg.fonttype": "none", "font.size": 9}
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.2, 4.2), layout="constrained")
    for rule, colour in COLOURS.items():
        for healthy, bad, marker in PAIRS:
            false, seen = others[healthy][rule]["rolled back %"], others[bad][rule]["rolled back %"]
            axes.plot(false, seen, marker, color=colour, markersize=8, alpha=0.85, clip_on=False, zorder=3)
        axes.plot([], [], "o", color=colour, label=rule)
    for _, bad, marker in PAIRS:
        axes.plot([], [], marker, color="white", markeredgecolor="black", label=_shown(bad))
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 103)
    axes.set_xticks([0, 0.5, 1, 10, 100], ["0", "0.5", "1", "10", "100"])
    axes.axvspan(0, 1, color="#0b7285", alpha=0.07, linewidth=0)
    axes.set_xlabel("healthy releases rolled back, %")
    axes.set_ylabel("bad releases rolled back within the hour, %")
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    pyplot.close(figure)


def _shown(bad: str) -> str:
    return bad.replace(" -> ", " \u2192 ").replace(", outages of both", ", both with outages")
