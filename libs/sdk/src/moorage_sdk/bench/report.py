"""What was measured, for people and for programs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from moorage_sdk.bench.statistics import Step

if TYPE_CHECKING:
    from rich.console import Console

COLUMNS = ["connections", "per_second", "p50_ms", "p90_ms", "p99_ms", "p999_ms", "max_ms", "over_quota", "failed"]
_HEADINGS = ["connections", "requests/s", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms", "over quota", "failed"]
_BAR_WIDTH = 40
_EIGHTHS = " ▏▎▍▌▋▊▉█"


@dataclass(frozen=True, slots=True)
class Report:
    """A whole benchmark. `request` says in words what was sent."""

    model: str
    version: int | None
    router: str
    request: str
    request_bytes: int
    steps: list[Step]

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {"loop": "closed", **asdict(self)}


def rows_of(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """A row a step, by `COLUMNS`."""
    return [{**asdict(step), "over_quota": step.over_quota, "failed": step.failed} for step in steps]


def milliseconds(value: float | None) -> str:
    """Three significant digits; a dash where there is no figure."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def bar(count: int, most: int, width: int = _BAR_WIDTH) -> str:
    """A bar of eighths of a character, seen for any count above 0."""
    eighths = max(1, round(count / most * width * 8)) if count else 0
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def draw(console: "Console", report: Report) -> None:
    """Table, histograms, versions and errors."""
    from rich.table import Table  # noqa: PLC0415 - only a terminal needs it
    from rich.text import Text  # noqa: PLC0415

    asked = report.model if report.version is None else f"{report.model} version {report.version}"
    console.print(Text(f"{asked} at {report.router}: {report.request}, {report.request_bytes:,} bytes\n"))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in _HEADINGS:
        table.add_column(heading, justify="right")
    for step in report.steps:
        latencies = (step.p50_ms, step.p90_ms, step.p99_ms, step.p999_ms, step.max_ms)
        table.add_row(
            f"{step.connections}", f"{step.per_second:,.0f}", *map(milliseconds, latencies),
            f"{step.over_quota:,}", f"{step.failed:,}",
        )  # fmt: skip
    console.print(table)
    for step in report.steps:
        for line in _step_lines(step):
            console.print(Text(line))


def _step_lines(step: Step) -> list[str]:
    lines = ["", f"latency over {step.connections} connection{'' if step.connections == 1 else 's'}"]
    most = max((found.count for found in step.histogram), default=0)
    lines += [
        f"  to {found.upto_ms:>6g} ms  {bar(found.count, most):<{_BAR_WIDTH}} {found.count:>9,}"
        for found in step.histogram
    ]
    if not step.histogram:
        lines.append("  no request was answered with 200")
    shares = [
        f"version {name} {count / step.answered:.1%}" for name, count in step.versions.items() if name != "unknown"
    ]
    if shares:
        lines.append(f"  answered by {', '.join(shares)}")
    lines += [f"  {count:,} x {name}" for name, count in step.errors.items()]
    return lines
