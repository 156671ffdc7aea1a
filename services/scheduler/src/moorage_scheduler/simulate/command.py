"""What `moorage simulate` does: a trace and a cluster in; tables, a time series and plots out."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from moorage_common.contracts.keys import TenantLimits
from moorage_common.errors import BadRequest
from moorage_scheduler.placement.shares import Shares
from moorage_scheduler.placement.state import NodeSize
from moorage_scheduler.simulate import fleet, openb, plots, synthetic
from moorage_scheduler.simulate.policies import POLICIES, Policy
from moorage_scheduler.simulate.record import Summary, write_series, write_summaries
from moorage_scheduler.simulate.run import Outcome, Setup, simulate
from moorage_scheduler.simulate.sizing import Sized, least
from moorage_scheduler.simulate.trace import Fault, Trace, read, read_faults

SERIES_POINTS = 400


@dataclass(frozen=True)
class Options:
    """The command's options; see `moorage simulate --help`. Times in seconds."""

    out: Path
    trace: str = "synthetic"
    gpus: Sequence[str] = ("64",)
    nodes: Path | None = None
    host: fleet.Host = field(default_factory=fleet.Host)
    policies: Sequence[str] = ("moorage",)
    limits: Path | None = None
    faults: Path | None = None
    mtbf_s: float | None = None
    repair_s: float = 3600.0
    load: float = 0.95
    life_s: float = 3600.0
    arrivals: int = 10_000
    patience_s: float = 300.0
    tenants: int = 3
    seed: int = 0
    grace_s: float = 30.0
    lost_under_pct: float | None = None
    plots: bool = True


@dataclass(frozen=True)
class Answer:
    """Rows of a table, what they say in a sentence or two, and the files written."""

    rows: list[dict[str, Any]]
    said: list[str]
    files: list[Path]


def run(options: Options) -> Answer:
    """Simulate as `options` say, and write the results under `options.out`.

    Raises:
        BadRequest: an option or a file cannot be used; the message says which and why.
        Unavailable: plots are wanted and matplotlib is not installed.
    """
    policies = [_policy(name) for name in options.policies]
    if options.plots:
        plots.drawing()
    groups = [fleet.Group.parse(text) for text in options.gpus]
    sizes = fleet.nodes(groups, options.host) if options.nodes is None else openb.read_nodes(options.nodes)
    trace, shares = _trace(options, sizes), _shares(options)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.lost_under_pct is not None:
        if options.nodes is not None:
            raise BadRequest("a sweep needs --gpus, which it scales, rather than --nodes", code="bad_gpus")
        return _sized(options, policies, groups, trace, shares)
    outcomes = {policy.name: simulate(_setup(sizes, trace, policy, shares)) for policy in policies}
    return _written(options, outcomes)


def _policy(name: str) -> Policy:
    if name not in POLICIES:
        raise BadRequest(f"there is no policy {name!r}; choose of {', '.join(POLICIES)}", code="bad_policy")
    return POLICIES[name]


def _setup(sizes: Sequence[NodeSize], trace: Trace, policy: Policy, shares: Shares) -> Setup:
    last = trace.jobs[-1].at_s
    return Setup(sizes, trace, policy, shares, sample_s=max(1.0, last / SERIES_POINTS))


def _trace(options: Options, sizes: Sequence[NodeSize]) -> Trace:
    rng = random.Random(options.seed)  # noqa: S311 - a simulation
    tenants = [f"tenant-{number + 1}" for number in range(max(1, options.tenants))]
    path = Path(options.trace)
    if options.trace == "synthetic":
        population = synthetic.mixed(tenants, rng)
    elif openb.is_pods(path):
        population = openb.read_pods(path, tenants)
    else:
        trace = read(path, options.patience_s)
        return Trace(trace.jobs, _faults(options, sizes, trace.jobs[-1].at_s, rng), trace.least)
    stream = synthetic.Stream(
        options.load * fleet.capacity_milli(sizes), options.life_s, options.arrivals, options.patience_s
    )
    jobs = synthetic.arrivals(population, stream, rng)
    return Trace(jobs, _faults(options, sizes, jobs[-1].at_s, rng))


def _faults(options: Options, sizes: Sequence[NodeSize], until_s: float, rng: random.Random) -> tuple[Fault, ...]:
    if options.faults is not None:
        found = read_faults(options.faults)
        unknown = {fault.node for fault in found} - {size.name for size in sizes}
        if unknown:
            some = ", ".join(size.name for size in sizes[:3])
            raise BadRequest(f"no node is named {min(unknown)}; nodes are {some}, ...", code="bad_trace")
        return found
    if options.mtbf_s is None:
        return ()
    return synthetic.faults([size.name for size in sizes], until_s, options.mtbf_s, options.repair_s, rng)


def _shares(options: Options) -> Shares:
    if options.limits is None:
        return Shares.of({}, grace_s=options.grace_s)
    try:
        known = TypeAdapter(list[TenantLimits]).validate_json(options.limits.read_bytes())
    except (OSError, ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise BadRequest(
            f"{options.limits} must hold a JSON list of tenants' limits, such as "
            f'[{{"tenant": "a", "gpu_milli": 8000, "gpu_shares": [{{"guaranteed_milli": 4000}}]}}]: {reason}',
            code="bad_limits",
        ) from error
    return Shares.of_limits(known, options.grace_s)


def _sized(
    options: Options, policies: Sequence[Policy], groups: Sequence[fleet.Group], trace: Trace, shares: Shares
) -> Answer:
    """The sweep: the same trace on clusters of other sizes."""
    wanted = options.lost_under_pct or 0.0
    found: dict[str, Sized] = {}
    for policy in policies:

        def once(gpus: int, policy: Policy = policy) -> Summary:
            sizes = fleet.nodes(fleet.scaled(groups, gpus), options.host)
            return simulate(_setup(sizes, trace, policy, shares)).summary

        begin = sum(group.gpus for group in groups)
        found[policy.name] = least(once, begin, options.host.gpus, wanted)
    summaries = [summary for sized in found.values() for summary in sized.tried.values()]
    files = [options.out / "summary.json"]
    write_summaries(summaries, files[0])
    if options.plots:
        files.append(options.out / "sizing.svg")
        sizing_plot({name: sized.tried for name, sized in found.items()}, files[-1])
    said = [_said(name, sized, wanted) for name, sized in found.items()]
    return Answer([_row(summary) for summary in summaries], said, files)


def _said(policy: str, sized: Sized, wanted: float) -> str:
    if sized.enough is None:
        return f"{policy}: even {max(sized.tried)} GPUs lose {wanted:g} % of the demand or more"
    return f"{policy}: {sized.enough} GPUs are the least that lose under {wanted:g} % of the demand"


def sizing_plot(tried: Mapping[str, Mapping[int, Summary]], path: Path) -> None:
    """Lost demand and allocation over the number of GPUs, by policy."""
    lost = {name: ([*map(float, by)], [one.lost_pct for one in by.values()]) for name, by in tried.items()}
    used = {name: ([*map(float, by)], [one.allocation_pct for one in by.values()]) for name, by in tried.items()}
    panels = [("Lost demand", "% of GPU demand", lost), ("Allocated GPU", "% of capacity", used)]
    plots.lines(panels, "GPUs", path)


def _written(options: Options, outcomes: Mapping[str, Outcome]) -> Answer:
    summaries = [outcome.summary for outcome in outcomes.values()]
    files = [options.out / "summary.json"]
    write_summaries(summaries, files[0])
    for name, outcome in outcomes.items():
        files.append(options.out / f"{name}.csv")
        write_series(outcome.record.samples, files[-1])
    if options.plots:
        for kind in ("svg", "png"):
            files.append(options.out / f"series.{kind}")
            plots.series({name: outcome.record.samples for name, outcome in outcomes.items()}, files[-1])
    said = [
        f"{summary.policy}, {tenant}: {waits.replicas} waits, p95 {waits.p95_s:g} s, longest {waits.longest_s:g} s"
        + (f", longest of what was guaranteed {waits.longest_owed_s:g} s" if waits.owed else "")
        for summary in summaries
        for tenant, waits in summary.waits.items()
    ]
    return Answer([_row(summary) for summary in summaries], said, files)


def _row(summary: Summary) -> dict[str, Any]:
    longest = max((waits.p95_s for waits in summary.waits.values()), default=0.0)
    return {
        "policy": summary.policy,
        "gpus": summary.gpus,
        "arrivals": summary.arrivals,
        "lost_pct": summary.lost_pct,
        "allocated_pct": summary.allocation_pct,
        "moves_per_1000": summary.moves_per_1000,
        "reclaimed": summary.reclaimed,
        "preempted": summary.preempted,
        "failed_over": summary.failed_over,
        "still_waiting": summary.still_waiting,
        "p95_wait_s": longest,
    }
