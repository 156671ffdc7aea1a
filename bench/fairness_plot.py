"""What a flood does to the others, as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moorage_scheduler.simulate import plots

_NAMES = {"arrival": "in order of arrival", "fair": "fairly", "off": "no order"}


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write an SVG: p99 of a tenant alone and of the worst of four beside a flood, by order; the last round of each."""
    last = {str(row["order"]): row for row in rows}
    bars = {
        "alone": [float(row["solo p99 ms"]) for row in last.values()],
        "beside a flood": [float(row["p99 ms of the four, worst"]) for row in last.values()],
    }
    plots.bars(
        [_NAMES[order] for order in last], bars, "p99, ms", path,
        "A tenant inside its share, alone and beside one at five times its own",
    )  # fmt: skip
