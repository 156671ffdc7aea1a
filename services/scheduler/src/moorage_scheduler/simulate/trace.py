"""What happens to a simulated cluster: replicas that are asked for and leave, nodes that fail and return."""

import csv
import gzip
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from moorage_common.contracts.desired import Resources
from moorage_common.errors import BadRequest
from moorage_scheduler.placement.state import Ask

NEEDED = ("at_s", "lasts_s", "tenant", "gpu_milli")
"""Columns of a trace: the second at which a replica is asked for, how long it runs once it has a place (empty: to the
end), whose it is, and thousandths of each of its devices (0: none)."""
AMOUNTS = ("devices", "gpu_mem_mib", "cpu_milli", "host_mem_mib", "elastic_pct")
WHERE_WANTED = ("model", "version", *AMOUNTS, "gpu_models", "class", "priority", "patience_s", "min_replicas")
"""Columns that may be empty or left out. `gpu_models` are parted by "|"; `min_replicas` are those of its version that
reclaim and preemption leave."""


@dataclass(frozen=True)
class Job:
    """One replica: asked for at `at_s`, runs for `lasts_s` in all, waits for a place no longer than `patience_s`."""

    id: str
    at_s: float
    ask: Ask
    lasts_s: float = math.inf
    patience_s: float = math.inf


@dataclass(frozen=True)
class Fault:
    """A node is lost at `at_s` and returns empty after `lasts_s`."""

    at_s: float
    node: str
    lasts_s: float = math.inf


@dataclass(frozen=True)
class Trace:
    jobs: tuple[Job, ...]
    faults: tuple[Fault, ...] = ()
    least: Mapping[tuple[str, str, int], int] = field(default_factory=dict)
    """By (tenant, model, version): replicas that reclaim and preemption leave."""


def opened(path: Path) -> Iterator[dict[str, str]]:
    """The lines of a CSV file, plain or gzipped, by the names of its header."""
    try:
        with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as lines:
            yield from csv.DictReader(lines)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadRequest(f"{path} cannot be read as CSV: {error}", code="bad_trace") from error


def read(path: Path, patience_s: float = math.inf) -> Trace:
    """The trace in the CSV file at `path`; its columns are `NEEDED` and `WHERE_WANTED`.

    Raises:
        BadRequest: a column lacks or a line does not say what it must; the message names the line.
    """
    jobs: list[Job] = []
    least: dict[tuple[str, str, int], int] = {}
    for number, row in enumerate(opened(path), start=2):
        try:
            job = _job(f"job-{number - 1}", row, patience_s)
            kept = int(row.get("min_replicas") or 0)
        except KeyError as error:
            raise BadRequest(f"{path} has no column {error}; see: moorage simulate --help", code="bad_trace") from error
        except (ValueError, ValidationError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            raise BadRequest(f"{path}, line {number}: {reason}", code="bad_trace") from error
        jobs.append(job)
        if kept:
            least[(job.ask.tenant, job.ask.model, job.ask.version)] = kept
    if not jobs:
        raise BadRequest(f"{path} has no line beside its header", code="bad_trace")
    return Trace(tuple(sorted(jobs, key=lambda job: job.at_s)), least=least)


def read_faults(path: Path) -> tuple[Fault, ...]:
    """Node faults from a CSV file with the columns at_s, node and lasts_s (empty: it never returns)."""
    try:
        return tuple(
            Fault(float(row["at_s"]), row["node"], float(row.get("lasts_s") or math.inf)) for row in opened(path)
        )
    except (KeyError, ValueError) as error:
        raise BadRequest(
            f"{path} needs the columns at_s, node and lasts_s, in seconds: {error}", code="bad_trace"
        ) from error


def _job(name: str, row: Mapping[str, str], patience_s: float) -> Job:
    given = {key: int(row[key]) for key in AMOUNTS if row.get(key)}
    models = [one for one in (row.get("gpu_models") or "").split("|") if one]
    scheduling_class = row.get("class") or "standard"
    if scheduling_class not in ("standard", "scavenger"):
        raise ValueError(f"class is standard or scavenger, not {scheduling_class}")
    ask = Ask(
        row["tenant"],
        row.get("model") or "m",
        int(row.get("version") or 1),
        Resources(gpu_milli=int(row["gpu_milli"]), gpu_models=models, **given),
        scheduling_class="scavenger" if scheduling_class == "scavenger" else "standard",
        priority=int(row.get("priority") or 50),
    )
    waits = row.get("patience_s")
    at_s, lasts_s = float(row["at_s"]), float(row["lasts_s"] or math.inf)
    if at_s < 0 or lasts_s <= 0 or not math.isfinite(at_s):
        raise ValueError("at_s is 0 or more and lasts_s more than 0")
    return Job(name, at_s, ask, lasts_s, float(waits) if waits else patience_s)


def offered_milli(jobs: Iterable[Job]) -> int:
    """GPU milli that `jobs` ask for, over all of them."""
    return sum(gpu_milli(job.ask) for job in jobs)


def gpu_milli(ask: Ask) -> int:
    """GPU milli that `ask` names over all its devices."""
    resources = ask.resources
    if resources.gpu_milli == 0:
        return 0
    return 1000 * resources.devices if resources.devices > 1 else resources.gpu_milli
