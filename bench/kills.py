"""kill -9 under load: a replica, the only replica of a deployment, a node's raylet, the scheduler, and two at once.

A platform of three Ray nodes serves `pair` with two replicas on two nodes, `single` with one, and three models in one
pooled host. Steady requests go through the router, each made once. Every kill is SIGKILL, and told from the kill on:
when all replicas are ready again, when the first request sent since was answered, what was lost. After each, Ray's own
tables are compared with what is wanted: nobody runs twice, no group and no reservation is left of what is gone.

A process that is to die with requests in flight is held (SIGSTOP) for 0.2 s before: a small model answers in a
millisecond, so hardly one would be otherwise. A dedicated replica is a host process of its own, so "host process" is
the only replica of a deployment, and a pool: neither has a sibling to retry on.

    python bench/kills.py [--kills 20] [--kinds replica,host,pool,raylet,return,scheduler,both,node]
"""

import argparse
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import kill_report
import psutil
import report
from kill_stage import POOL, Stage, Victims, staged
from platform_run import platform
from steady import Steady, Stream, steady

HELD_S = 0.2
DEADLINE_S = 120.0
LINGER_S = 2.0
"""Between recovery and the next kill, so that requests of one are not counted at the other."""
LASTING_S = 61.0
"""Three deaths of a version's hosts in a row, none ready for a minute, fail it: the third kill waits so long."""
CRASHES = 3
POLL_S = 0.1
PARTS = {"pair": 0.5, "single": 0.2, "small-1": 0.1, "small-2": 0.1, "small-3": 0.1}
"""Of the requests."""


@dataclass
class Kill:
    """One kill and what came of it. Seconds are since the kill, `at` is the clock that all processes share."""

    kind: str
    at: float
    hosts: list[str]
    streams: list[str]
    """Deployments of which a host was killed."""
    without_sibling: list[str]
    recovered_s: float = 0.0
    noticed_s: float | None = None
    """Until the view of the scheduler was not the one from before any more; None where it was killed itself."""
    ends: float = 0.0
    placed_twice: int = 0
    leaked: list[str] = field(default_factory=list)
    restarted: list[str] = field(default_factory=list)
    """Replicas and pools that were not killed and run in another process, or not at all, afterwards."""
    retries: dict[str, float] = field(default_factory=dict)


Act = Callable[[Stage], Victims]


def _die(pids: Sequence[int], *, held: bool) -> float:
    if held:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(HELD_S)
    at = time.monotonic()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return at


def kill_host_of(model: str) -> Act:
    """Its oldest host."""

    def kill(stage: Stage) -> Victims:
        host = stage.oldest(model)
        return stage.victims(_die([stage.pid(host)], held=True), [host])

    return kill


def kill_raylet(stage: Stage) -> Victims:
    node, hosts = stage.worker_with("pair")
    at = _die([stage.machines.raylet(node)], held=False)
    return stage.victims(at, hosts, node=node)


def kill_raylet_that_returns(stage: Stage) -> Victims:
    victims = kill_raylet(stage)
    assert victims.node is not None
    stage.start_again(victims.node)
    return replace(victims, returns=True)


def kill_scheduler(stage: Stage) -> Victims:
    fencing = stage.view().fencing
    at = _die([stage.child("scheduler")], held=False)
    return stage.victims(at, [], after_fencing=fencing)


def kill_both(stage: Stage) -> Victims:
    host, fencing = stage.oldest("pair"), stage.view().fencing
    at = _die([stage.child("scheduler"), stage.pid(host)], held=False)
    return stage.victims(at, [host], after_fencing=fencing)


def kill_scheduler_and_raylet(stage: Stage) -> Victims:
    fencing = stage.view().fencing
    node, hosts = stage.worker_with("pair")
    at = _die([stage.child("scheduler"), stage.machines.raylet(node)], held=False)
    return stage.victims(at, hosts, node=node, after_fencing=fencing)


KINDS: dict[str, tuple[str, Act, str]] = {
    "replica": ("replica (1 of 2)", kill_host_of("pair"), "pair"),
    "host": ("host (the only)", kill_host_of("single"), "single"),
    "pool": ("pooled host", kill_host_of(POOL), POOL),
    "raylet": ("raylet, node away", kill_raylet, ""),
    "return": ("raylet, node returns", kill_raylet_that_returns, ""),
    "scheduler": ("scheduler", kill_scheduler, ""),
    "both": ("scheduler + replica", kill_both, ""),
    "node": ("scheduler + raylet", kill_scheduler_and_raylet, ""),
}
"""By name: its row in the tables, how it is done, the model whose host dies alone."""


@dataclass
class Deaths:
    """How often each model's hosts died in a row, as far as the scheduler remembers."""

    counts: dict[str, int] = field(default_factory=dict)

    def rest(self, stage: Stage, model: str) -> None:
        """Wait where one more death would fail the version."""
        if model and self.counts.get(model, 0) >= CRASHES - 1:
            ready_at = stage.view().ready_at(stage.oldest(model))
            time.sleep(max(0.0, ready_at + LASTING_S - time.time()))
            self.counts[model] = 0

    def count(self, victims: Victims, model: str) -> None:
        """A scheduler that is killed forgets them, and a host that goes with its node is no death of its own."""
        if victims.after_fencing is not None:
            self.counts.clear()
        elif model:
            self.counts[model] = self.counts.get(model, 0) + 1


def one(stage: Stage, kind: str, deaths: Deaths) -> Kill:
    """Kill once and wait until all is well again."""
    _title, act, model = KINDS[kind]
    deaths.rest(stage, model)
    shown = stage.view().replicas
    before, retries = {name: pid for name, pid in stage.hosts().items() if name in shown}, stage.retries()
    victims = act(stage)
    deaths.count(victims, model)
    kill = Kill(kind, victims.at, list(victims.hosts), list(victims.streams), list(victims.without_sibling))
    _recover(stage, victims, kill, before)
    if victims.node is not None:
        if not victims.returns:
            stage.start_again(victims.node)
        stage.machines.await_ready(victims.node)
    time.sleep(LINGER_S)
    kill.leaked = stage.leaks()
    after = stage.hosts()
    kill.restarted = [name for name, pid in before.items() if name not in victims.hosts and after.get(name) != pid]
    kill.retries = {reason: count - retries.get(reason, 0.0) for reason, count in stage.retries().items()}
    kill.ends = time.monotonic()
    return kill


def _recover(stage: Stage, victims: Victims, kill: Kill, before: dict[str, int]) -> None:
    """Until every replica is ready in a process that lives; how many too many ran meanwhile."""
    gone = {before[name] for name in victims.hosts if name in before}
    while True:
        now = time.monotonic() - victims.at
        view = stage.view()
        kill.placed_twice = max(kill.placed_twice, stage.too_many(view))
        if kill.noticed_s is None and victims.after_fencing is None and not view.still_shows(victims.hosts):
            kill.noticed_s = round(now, 3)
        if stage.all_ready(view, gone, victims.after_fencing):
            kill.recovered_s = round(now, 3)
            return
        if now > DEADLINE_S:
            raise SystemExit(f"not well again {DEADLINE_S:g} s after {kill}:\n{view}\n{stage.hosts()}")
        time.sleep(POLL_S)


def run(kills: int, kinds: Sequence[str], per_second: float, logs: Path | None) -> None:
    """All kinds in turn, `kills` times."""
    with platform("--no-demo") as local, _kept(logs, local), staged(local) as stage:
        rates = {name: per_second * part for name, part in PARTS.items()}
        streams = [Stream(name, *stage.requests[name], stage.headers, rate) for name, rate in rates.items()]
        deaths, done = Deaths(), []
        with tempfile.TemporaryDirectory() as scratch:
            with steady(streams, Path(scratch, "outcomes")) as load:
                time.sleep(LINGER_S)
                for number in range(kills):
                    for kind in kinds:
                        done.append(one(stage, kind, deaths))
                        print(f"{kind} {number + 1}: {_line(done[-1], load)}", flush=True)
            outcomes = load.outcomes()
    by_kind = {KINDS[kind][0]: [k for k in done if k.kind == kind] for kind in kinds}
    times = [kill_report.times(title, mine, done, outcomes) for title, mine in by_kind.items()]
    lost = [kill_report.kept(title, mine, done, outcomes) for title, mine in by_kind.items()]
    report.table(f"kill -9, {kills} times each, at {per_second:g} requests/s: seconds", times)
    report.table("What it cost", lost)
    found = {
        "requests": len(outcomes),
        "load_average": psutil.getloadavg(),
        "recovery": times,
        "cost": lost,
        "kills": [{**asdict(kill), "lost": kill_report.losses(kill, done, outcomes)} for kill in done],
    }
    print(report.keep("kills", found))


@contextmanager
def _kept(logs: Path | None, local: dict[str, Any]) -> Iterator[None]:
    """Copy the platform's logs to `logs` at the end."""
    try:
        yield
    finally:
        if logs is not None:
            shutil.copytree(Path(local["state"], "logs"), logs, dirs_exist_ok=True)


def _line(kill: Kill, load: Steady) -> str:
    mine = [o for o in load.outcomes() if o.begun >= kill.at - kill_report.BEFORE_S]
    lost = [o for o in mine if not o.ok]
    slow = max(mine, key=lambda o: o.ended - o.begun)
    noted: dict[str, Any] = {
        "at": time.strftime("%T", time.gmtime(time.time() - time.monotonic() + kill.at)), "hosts": kill.hosts,
        "recovered": kill.recovered_s, "noticed": kill.noticed_s, "lost": kill_report.by_code(lost),
        "slowest": f"{slow.stream} {slow.begun - kill.at:.2f} to {slow.ended - kill.at:.2f}",
        "twice": kill.placed_twice, "leaked": kill.leaked, "restarted": kill.restarted, "retries": kill.retries,
    }  # fmt: skip
    return " ".join(f"{name}={value}" for name, value in noted.items() if value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of each kind")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of " + ", ".join(KINDS))
    parser.add_argument("--per-second", type=float, default=30.0, help="requests, half of them to the pair")
    parser.add_argument("--logs", type=Path, help="directory to keep the platform's logs in")
    args = parser.parse_args()
    kinds = args.kinds.split(",")
    if unknown := set(kinds) - set(KINDS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; choose from {', '.join(KINDS)}")
    run(args.kills, kinds, args.per_second, args.logs)


if __name__ == "__main__":
    main()
