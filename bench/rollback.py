"""How long a bad version is in front of callers: from its first answer to the verdict, and from the verdict to the last
of three routers.

    .venv/bin/python bench/rollback.py [--only moves|faults|same] [--rounds 5] [--repeat 3]

A platform with three routers on one port, callers at a steady rate over connections to each. First some versions that
fail on two of five requests are rolled out again and again; every one is rolled back, and each router's first answer by
the route after the verdict is looked up: the request id names the route's revision. Then the default policy meets a
version that is three times slower, one that fails on one of twenty requests, one that is wrong more often (labels come
30 s later) and one whose artifact is damaged. No request is sent twice, and one that got no answer of a version counts
as lost. Last, identical versions under the default policy: what real processes, caches and schedulers do to two copies
of one model is in no simulation.
"""

import argparse
import collections
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import report

sys.path.append(str(Path(__file__).parent.parent / "tests" / "e2e"))
from e2e_platform import Platform
from e2e_rollout_load import Answered, Traffic
from e2e_rollout_models import Behaviour
from e2e_rollouts import Case, Ended, Json, Rollouts, damage, instant, prepare

ROUTERS = ("router-0", "router-1", "router-2")
CONNECTIONS = 36
FEWEST = 3
"""Connections of a stream to each router."""
MODELS = 4
PER_SECOND = 75.0
LABELS_AFTER_S = 30.0
MOST_S = 1500.0
QUICK: Json = {
    "steps": [{"weight": 20, "at_least_s": 5}],
    "baseline_requests": 100,
    "baseline_at_most_s": 5,
    "candidate_hosts": 1,
}
"""A short way to the step; what rolls back is the default."""
FAULTS = {
    "three times slower": Case("slower", Behaviour(work=200), Behaviour(work=60)),
    "5 % errors": Case("failing", Behaviour(failing=0.05)),
    "accuracy 95 % to 65 %, labels 30 s late": Case("wrong", Behaviour(wrong=0.35), labels_after_s=LABELS_AFTER_S),
    "does not load": Case("broken", Behaviour()),
}


def routers_of(platform: Platform) -> dict[int, str]:
    """Which router holds the connection from each of our ports."""
    port, found = int(platform.info["router"].rsplit(":", 1)[1]), {}
    for router in ROUTERS:
        for connection in psutil.Process(platform.pid(router)).net_connections("tcp4"):
            if connection.laddr.port == port and connection.raddr:
                found[connection.raddr.port] = router
    return found


def spread(traffic: Traffic, platform: Platform, case: Case) -> None:
    """Begin the case's stream. Raises SystemExit where a router got none of its connections."""
    traffic.add(replace(case.stream, connections=CONNECTIONS))
    held = list(routers_of(platform).values())
    if min(held.count(router) for router in ROUTERS) < FEWEST:
        raise SystemExit(f"the connections are not spread over the routers: {held}")


def moved(answers: Sequence[Answered], routers: dict[int, str], rollout: Json, at: float) -> dict[str, float]:
    """Seconds from a verdict `at` to the end of each router's first answer by the route after it; and `candidate`, to
    the last request sent that the candidate answered all the same (0 where none was)."""
    mine = [a for a in answers if a.version == rollout["candidate"]]
    last = max(answer.revision for answer in mine)
    found = {"candidate": max(0.0, max(answer.begun for answer in mine) - at)}
    for router in ROUTERS:
        found[router] = min(a.ended for a in answers if a.revision > last and routers.get(a.port) == router) - at
    return found


def moves(platform: Platform, ended: Ended, rounds: int) -> dict[str, Any]:
    """`rounds` rollbacks of each model."""
    cases = [Case(f"moved-{n}", Behaviour(failing=0.4), per_second=PER_SECOND) for n in range(MODELS)]
    prepare(platform, cases)
    for case in cases:
        spread(ended.traffic, platform, case)
    routers, found, to_verdict = routers_of(platform), [], []
    for _ in range(rounds):
        ended.of.clear()
        ended.run(cases, QUICK, MOST_S)
        time.sleep(2)
        for case in cases:
            (rollout,) = ended.of[case.model]
            at = instant(verdict_of(ended.rollouts, case, rollout)["at"])
            answers = [a for a in ended.traffic.answers(case.model) if a.begun > instant(rollout["started_at"])]
            found.append(moved(answers, routers, rollout, at))
            to_verdict.append(at - min(a.ended for a in answers if a.version == rollout["candidate"]))
    lost = finish(ended, cases)
    of_routers = [one[router] for one in found for router in ROUTERS]
    of_last = [max(one[router] for router in ROUTERS) for one in found]
    rows = [
        {"verdict to": "each router's first answer by the route after it", **spans(of_routers)},
        {"verdict to": "the last of the three", **spans(of_last)},
        {"verdict to": "the last request that the candidate got", **spans([one["candidate"] for one in found])},
    ]
    report.table(f"{len(found)} rollbacks, {PER_SECOND * MODELS:g} requests/s over three routers: seconds", rows)
    asked = sum(len(ended.traffic.answers(case.model)) for case in cases)
    print(f"{asked} requests, {lost} lost by the platform; first answer to verdict {spans(to_verdict)}")
    return {"rows": rows, "rollbacks": found, "requests": asked, "lost": lost, "to_verdict": spans(to_verdict)}


def faults(platform: Platform, ended: Ended, repeat: int) -> dict[str, Any]:
    """Each fault, `repeat` times side by side, under the default policy."""
    named = [
        (
            title,
            replace(
                case, model=f"{case.model}-{n}", per_second=PER_SECOND, candidate=replace(case.candidate, seed=n + 1)
            ),
        )
        for title, case in FAULTS.items()
        for n in range(repeat)
    ]
    rows, requests, lost = [], 0, 0
    for number in range(repeat):
        turn = named[number::repeat]
        cases = [case for _, case in turn]
        prepare(platform, cases)
        with platform.client() as client:
            damage(platform, client.registry.version(f"broken-{number}", 2).artifact_digest)
        for case in cases:
            spread(ended.traffic, platform, case)
        ended.run(cases, {}, MOST_S)
        time.sleep(2)
        lost += finish(ended, cases)
        for title, case in turn:
            rows.append(verdict_row(title, ended, case))
            print(rows[-1], flush=True)
            requests += len(ended.traffic.answers(case.model))
    report.table(f"From a version's first answer to the verdict, default policy, {PER_SECOND:g} requests/s", rows)
    print(f"{requests} requests, {lost} lost by the platform")
    return {"rows": rows, "requests": requests, "lost": lost}


def same(platform: Platform, ended: Ended, rounds: int) -> dict[str, Any]:
    """Identical versions, there and back, `rounds` times each of `MODELS` models."""
    cases = [
        Case(f"same-{n}", Behaviour(), per_second=PER_SECOND, pooled=n % 2 == 1, rounds=rounds) for n in range(MODELS)
    ]
    prepare(platform, cases)
    for case in cases:
        spread(ended.traffic, platform, case)
    ended.run(cases, {"guard": {"for_s": 60}}, MOST_S * rounds)
    lost = finish(ended, cases)
    done = [rollout for case in cases for rollout in ended.of[case.model]]
    states = collections.Counter(rollout["state"] for rollout in done)
    took = [instant(one["finished_at"]) - instant(one["started_at"]) for one in done if one["state"] == "done"]
    asked = sum(len(ended.traffic.answers(case.model)) for case in cases)
    print(f"{asked} requests, {lost} lost; identical versions: {dict(states)}, seconds to promote {spans(took)}")
    reasons = [rollout["reason"] for rollout in done if rollout["state"] != "done"]
    return {"states": states, "seconds": spans(took), "requests": asked, "lost": lost, "reasons": reasons}


def verdict_row(title: str, ended: Ended, case: Case) -> dict[str, Any]:
    (rollout,) = ended.of[case.model]
    verdict = verdict_of(ended.rollouts, case, rollout)
    started, at = instant(rollout["started_at"]), instant(verdict["at"])
    answers = [a for a in ended.traffic.answers(case.model) if started < a.begun < at]
    met = [answer for answer in answers if answer.version == rollout["candidate"]]
    begun = met[0].begun if met else started
    ok = [[a.ended - a.begun for a in answers if a.status == 200 and a.version == version] for version in (1, 2)]
    return {
        "version": title,
        "signal": verdict["detail"].get("signal", rollout["state"]),
        "seconds": round(at - begun, 1),
        "requests": sum(answer.begun >= begun for answer in answers) if met else 0,
        "of them the candidate's": len(met),
        "of those failed": sum(answer.status != 200 for answer in met),
        "median, times stable's": round(float(np.median(ok[1]) / np.median(ok[0])), 2) if ok[1] else None,
    }


def verdict_of(rollouts: Rollouts, case: Case, rollout: Json) -> Json:
    """The one that rolled it back. Raises SystemExit where none did."""
    if rollout["state"] != "rolled_back":
        raise SystemExit(f"{case.model} was not rolled back: {rollout}")
    told = rollouts.verdicts(case.model, rollout["id"])
    found: Json = next(verdict for verdict in reversed(told["verdicts"]) if verdict["kind"] == "rolled_back")
    return found


def finish(ended: Ended, cases: Sequence[Case]) -> int:
    """End the streams; how many requests the platform lost."""
    for case in cases:
        ended.traffic.end(case.model)
    return sum(len(ended.traffic.lost(case.model)) for case in cases)


def spans(values: Sequence[float]) -> dict[str, float]:
    p50, p99 = (round(float(np.percentile(values, q)), 3) for q in (50, 99))
    return {"p50": p50, "p99": p99, "most": round(max(values), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("moves", "faults", "same"))
    parser.add_argument("--rounds", type=int, default=5, help=f"rollbacks of each of {MODELS} models")
    parser.add_argument("--repeat", type=int, default=3, help="of each fault, and of each identical version")
    args = parser.parse_args()
    kept = report.RESULTS / "rollback.json"
    found: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() and args.only else {}
    found.pop("machine", None)
    with tempfile.TemporaryDirectory(prefix="mrg-") as scratch:
        platform = Platform(Path(scratch) / "state", ("--no-demo", "--routers", str(len(ROUTERS))))
        try:
            platform.start()
            with platform.admin() as admin:
                admin.registry.set_limits(
                    platform.info["tenant"], {"requests_per_s": 1e6, "burst": 10**6, "max_concurrent": 10_000}
                )
            with (
                Rollouts.of(platform) as rollouts,
                Traffic(platform.info["router"], platform.info["api_key"]) as traffic,
            ):
                ended = Ended(rollouts, traffic)
                if args.only in (None, "moves"):
                    found["moves"] = moves(platform, ended, args.rounds)
                ended.of.clear()
                if args.only in (None, "faults"):
                    found["faults"] = faults(platform, ended, args.repeat)
                ended.of.clear()
                if args.only in (None, "same"):
                    found["same"] = same(platform, ended, args.repeat)
        finally:
            platform.end()
    print(report.keep("rollback", found))


if __name__ == "__main__":
    main()
