"""kill -9 of the registry in the middle of rollouts, ten times: what it decides and what it goes by must not change.

    .venv/bin/python bench/controller_kills.py [--kills 10]

Three rollouts under steady load: an identical version, one that fails more often, one that is wrong more often. Each
kill is SIGKILL; told is when the log of the rollouts went on. When all have ended, the log of each is folded by a judge
in this process, which nobody killed: its evidence must be the stored one to the last bit, and it must roll back at the
very entry at which the registry did. Every request is in the log once.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import report

from moorage_common.contracts.rollouts import RolloutPolicy
from moorage_registry.rollouts.entries import parse_entry
from moorage_registry.rollouts.judge import Judge

sys.path.append(str(Path(__file__).parent.parent / "tests" / "e2e"))
from e2e_platform import Platform, until
from e2e_rollout_load import Traffic
from e2e_rollout_models import Behaviour
from e2e_rollouts import FINAL, Case, Json, Rollouts, answered, counted, prepare

POLICY: Json = {
    "steps": [{"weight": 40, "at_least_s": 75, "at_most_s": 200}],
    "baseline_requests": 300,
    "baseline_at_most_s": 15,
    "candidate_hosts": 1,
    "errors": {"margin_pp": 5},
    "latency": {"margin_pct": 100, "skip_first": 20},
    "guard": {"for_s": 60},
}
CASES = {
    "identical": Case("identical", Behaviour(), per_second=40),
    "2 % to 5 % errors": Case("worse", Behaviour(failing=0.05), Behaviour(failing=0.02), per_second=40),
    "accuracy 95 % to 85 %": Case("wrong", Behaviour(wrong=0.15), per_second=40, labels_after_s=5.0),
}
BACK_S, END_S = 60.0, 600.0
UNDER_WAY_S = 3.0


def kill(platform: Platform, rollouts: Rollouts, running: dict[str, str]) -> float:
    """Kill the registry once; seconds until it judged further batches of a rollout that goes on."""
    model = next(m for m, rollout in running.items() if rollouts.get(m, rollout)["state"] not in FINAL)
    last, at = rollouts.get(model, running[model])["seq"], time.monotonic()
    platform.kill("registry")
    until(lambda: any(rollouts.entries(model, running[model], last + 2)), BACK_S, f"further batches of {model}")
    return time.monotonic() - at


def told(title: str, case: Case, rollouts: Rollouts, traffic: Traffic, rollout: Json) -> dict[str, Any]:
    """One rollout's line: what was decided, and whether an unkilled judge comes to the same."""
    entries = list(rollouts.entries(case.model, rollout["id"]))
    judge = Judge(RolloutPolicy(**rollout["policy"]), rollout["stable"], rollout["candidate"])
    failed_at = None
    for entry in entries:
        judge.fold(parse_entry(entry["kind"], entry["entry"]))
        failure = judge.failure() if failed_at is None else None
        if failure is not None and failure.action == "roll_back":
            failed_at = entry["seq"]
    verdicts = rollouts.verdicts(case.model, rollout["id"])
    rolled_back = [verdict["seq"] for verdict in verdicts["verdicts"] if verdict["kind"] == "rolled_back"]
    mine = json.dumps(judge.evidence().told(), sort_keys=True)
    counts, answers = counted(entries), traffic.answers(case.model)
    revisions = {revision for revision, _ in counts}
    last = max(entry["entry"]["batch"]["opened_at"] for entry in entries if entry["kind"] == "batch")
    sure = [answer for answer in answers if answer.ended < last]  # what came later was not read before the verdict
    return {
        "candidate": title,
        "ended": rollout["state"],
        "entries": len(entries),
        "same decision": rolled_back == ([] if failed_at is None else [failed_at]),
        "evidence to the bit": mine == json.dumps(rollout["evidence"], sort_keys=True),
        "replays": rollouts.replay(case.model, rollout["id"])["same"],
        "chain intact": verdicts["intact"],
        "counted twice": (counts - answered(answers, revisions)).total(),
        "not counted": (answered(sure, revisions) - counts).total(),
        "lost": len(traffic.lost(case.model)),
    }


def run(platform: Platform, kills: int) -> dict[str, Any]:
    """All of it; what is kept."""
    rollouts = Rollouts.of(platform)
    prepare(platform, list(CASES.values()))
    streams = [case.stream for case in CASES.values()]
    with Traffic(platform.info["router"], platform.info["api_key"], streams) as traffic:
        running = {case.model: rollouts.start(case.model, 2, POLICY | case.policy)["id"] for case in CASES.values()}
        for model, rollout in running.items():
            rollouts.wait(model, rollout, ("baking",), BACK_S)
        took = []
        for number in range(kills):
            took.append(kill(platform, rollouts, running))
            print(f"kill {number + 1}: judged on after {took[-1]:.1f} s", flush=True)
        ended = {model: rollouts.wait(model, rollout, FINAL, END_S) for model, rollout in running.items()}
        time.sleep(UNDER_WAY_S)
        for model in running:
            traffic.end(model)
        rows = [told(title, case, rollouts, traffic, ended[case.model]) for title, case in CASES.items()]
    back = {"kills": kills, "judged on after, p50": _at(50, took), "most": round(max(took), 2)}
    report.table(f"{kills} times kill -9 of the registry amid three rollouts", rows)
    report.table("Until it judged on, seconds", [back])
    return {"rollouts": rows, "back": back}


def _at(q: int, values: Sequence[float]) -> float:
    return round(float(np.percentile(values, q)), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mrg-") as scratch:
        platform = Platform(Path(scratch) / "state")
        try:
            platform.start()
            found = run(platform, args.kills)
        finally:
            platform.end()
    print(report.keep("controller_kills", found))


if __name__ == "__main__":
    main()
