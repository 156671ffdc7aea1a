"""What taking turns costs where nobody contends: the digits model with `queue_order` fair and off, one key and two.

python bench/fairness_overhead.py [--seconds 4] [--rounds 2]
"""

import argparse
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean
from typing import Any

import load
import moorage_side
import report
import workload

CONNECTIONS = (32, 128)


def measure(order: str, model: workload.Model, seconds: float) -> list[dict[str, Any]]:
    """Requests a second at each number of connections, all with one key, and half of them with another."""
    rows = []
    with moorage_side.started([model], ["moorage"], "--queue-order", order) as running:
        asked = running.asked("digits", single=False)
        bodies = asked.encode(model)
        keys = [running.headers["authorization"], f"Bearer {running.second_key}"]
        for connections in CONNECTIONS:
            for callers in (1, 2):
                jobs = [
                    load.Job(
                        url=running.router + asked.path, body="", connections=connections // callers,
                        requests=10_000_000, warmup=10_000_000, headers={**bodies[0].headers, "authorization": key},
                        bodies=[body.data for body in bodies], expected=model.expected(raw=asked.raw),
                        seconds=seconds, warmup_s=1.5,
                    )
                    for key in keys[:callers]
                ]  # fmt: skip
                with ThreadPoolExecutor(callers) as pool:
                    done = list(pool.map(load.run, jobs))
                rows.append(
                    {
                        "order": order,
                        "c": connections,
                        "keys": callers,
                        "requests/s": round(sum(one.per_second for one in done), 1),
                        "p99 ms": max(one.p99_ms for one in done),
                        "errors": sum(one.errors + one.mismatches for one in done),
                    }
                )
                print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load")
    parser.add_argument("--rounds", type=int, default=2)
    wanted = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="mb-models-") as scratch:
        model = workload.make(Path(scratch))["digits"]
        for number in range(wanted.rounds):
            for order in ("fair", "off") if number % 2 == 0 else ("off", "fair"):
                rows += measure(order, model, wanted.seconds)
    ratios = []
    for connections in CONNECTIONS:
        for callers in (1, 2):
            means = {
                order: fmean(
                    row["requests/s"]
                    for row in rows
                    if (row["order"], row["c"], row["keys"]) == (order, connections, callers)
                )
                for order in ("fair", "off")
            }
            ratios.append(
                {"c": connections, "keys": callers, **means, "fair/off": round(means["fair"] / means["off"], 3)}
            )
    report.table("Throughput with turns and without", ratios)
    report.keep("fairness_overhead", {"seconds": wanted.seconds, "ratios": ratios, "runs": rows})


if __name__ == "__main__":
    main()
