"""Claim: the judge rolls back less than 1 % of healthy releases however often it looks, and sees bad ones soon.

The product's own judge (`moorage_registry.rollouts.judge`) on simulated traffic, thousands of rollouts at once, seeded:
no change in twenty-four kinds of traffic; what it takes to see a change, and to know that there is none; and the same
traffic by the rules that Flagger, Argo Rollouts and Kayenta document.

    python bench/judge.py [--runs 6000] [--processes 2] [--quick] [--only null|power|others]
"""

import argparse
import json
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import judge_null
import judge_others
import judge_power
import report
from judge_plot import draw

RESULT = report.RESULTS / "judge.json"
IMAGE = Path(__file__).parents[1] / "docs/images/judge.svg"
POWER_RUNS, OTHERS_RUNS, QUICK = 1000, 1000, 200
Job = tuple[str, str, Callable[..., Any], tuple[Any, ...]]


def main() -> None:
    """Measure, print the tables, write `bench/results/judge.json` and the picture."""
    arguments = _arguments()
    began = time.monotonic()
    jobs = [job for job in _jobs(arguments) if arguments.only in {None, job[0]}]
    with ProcessPoolExecutor(arguments.processes) as pool:
        running = [(part, name, pool.submit(work, *given)) for part, name, work, given in jobs]
        done: dict[str, dict[str, Any]] = {}
        for part, name, one in running:
            done.setdefault(part, {})[name] = one.result()
            print(f"{time.monotonic() - began:5.0f} s  {part}: {name}", flush=True)
    for part, rows in done.items():
        for title, table in _tables(part, rows):
            report.table(title, table)
    if not arguments.quick:
        kept = RESULT.exists() and json.loads(RESULT.read_text())
        report.keep("judge", {**(kept or {}), **done, "machine": report.machine()})
        if "others" in done:
            draw(done["others"], IMAGE)
    print(f"{time.monotonic() - began:.0f} s")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=6000, help="rollouts a cell without a change")
    parser.add_argument("--only", choices=["null", "power", "others"], help="measure this part, keep the rest")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} rollouts everywhere")
    return parser.parse_args()


def _jobs(arguments: argparse.Namespace) -> list[Job]:
    runs, power, others = arguments.runs, POWER_RUNS, OTHERS_RUNS
    if arguments.quick:
        runs = power = others = QUICK
    cells = [
        ("null", ", ".join([one.unit, one.kind, *(f"{base:g}" for base in one.bases)]), one.measured, ())
        for one in judge_null.cells(runs)
    ]
    cases = [
        ("power", f"{group}: {name}", judge_power.measured, (group, name, power))
        for group, members in judge_power.GROUPS.items()
        for name in members
    ]
    compared = [
        ("others", one.name, judge_others.compared, (one, others, seed))
        for seed, one in enumerate(judge_others.TRAFFIC)
    ]
    return [*cells, *cases, *compared]


def _tables(part: str, rows: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    if part == "null":
        return [("No change: rolled back all the same, 800 looks", [row for cells in rows.values() for row in cells])]
    if part == "power":
        return [("What it takes: median and p99, candidate at 5 %", list(rows.values()))]
    table = [
        {"traffic": traffic, **{rule: _told(verdict) for rule, verdict in by_rule.items()}}
        for traffic, by_rule in rows.items()
    ]
    return [("The same hour by other rules: rolled back, and after how long", table)]


def _told(verdict: dict[str, Any]) -> str:
    minutes = verdict["median minutes"]
    return f"{verdict['rolled back %']:g} %" + ("" if minutes is None else f", {minutes:g} min")


if __name__ == "__main__":
    main()
