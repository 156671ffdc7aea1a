"""Moorage's data plane against what a user would pick instead, in one run on one machine.

Moorage runs whole (`moorage up`: key, quota, routing, metrics and metering on); Ray Serve, MLServer, KServe's server,
LitServe and BentoML run from PyPI in environments of their own, which the first run makes (some 2 GB). One replica,
the same models and requests, each side alone on the machine while it is measured, every answer compared.

    python bench/dataplane.py [--quick] [--cases digits,binary,onnx] [--peers ray-serve-batch,litserve]
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import load
import moorage_side
import peers
import psutil
import report
import verdicts
import workload
from peers import process, side
from verdicts import Measured

CONNECTIONS = {"digits": (1, 32, 128), "binary": (1, 32), "onnx-json": (1, 32), "onnx-binary": (1, 32)}
WARMUP_S = 0.5

Tree = Sequence[psutil.Process]


@dataclass(frozen=True)
class Options:
    cases: tuple[str, ...]
    sides: tuple[str, ...]
    envs: Path
    requests: int
    seconds: float
    repeats: int


@dataclass
class Run:
    """What the run gathers."""

    options: Options
    models: Mapping[str, workload.Model]
    measured: list[Measured] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    told: dict[str, dict[str, Any]] = field(default_factory=dict)

    def load(
        self, name: str, case: str, asked: side.Asked, *, base: str, headers: Mapping[str, str], tree: Tree
    ) -> None:
        """One case at every number of connections."""
        model = self.models[side.MODEL_OF[case]]
        bodies = asked.encode(model)
        for connections in CONNECTIONS[case]:
            before = process.cpu_seconds(tree)
            result = load.run(
                load.Job(
                    url=base + asked.path,
                    body="",
                    connections=connections,
                    requests=self.options.requests,
                    warmup=self.options.requests,
                    headers={**headers, **bodies[0].headers},
                    bodies=[body.data for body in bodies],
                    expected=model.expected(raw=asked.raw),
                    seconds=self.options.seconds,
                    warmup_s=WARMUP_S,
                )
            )
            spent = sum(after - before.get(pid, after) for pid, after in process.cpu_seconds(tree).items())
            cpu_us = round(1e6 * spent / max(1, result.answered), 1)
            self.measured.append(Measured(name, case, asked.wire, result, cpu_us))
            print(_line(self.measured[-1]), flush=True)


def _line(one: Measured) -> str:
    r = one.result
    wrong = f"  {r.errors} errors, {r.mismatches} wrong answers: {r.first_error}" if r.errors or r.mismatches else ""
    return f"{one.side:18} {one.case:12} c={r.connections:<4} {r.per_second:9.1f}/s  p50 {r.p50_ms:8.2f} ms{wrong}"


def measure_peer(run: Run, peer: side.Peer) -> None:
    """Start a peer, put every case to it, end it; a failure is kept with the log's tail."""
    try:
        python = side.environment(peer.pins, run.options.envs)
        run.told[peer.name] = {"versions": side.versions(python, peer.shown), "settings": peer.settings}
        offered = [case for case in run.options.cases if case in peer.cases]
        for cases in [[case] for case in offered] if peer.alone else [offered]:
            _start(run, peer, python, cases)
    except (side.EnvironmentFailed, process.NotStarted, OSError) as error:
        run.failed[peer.name] = str(error)
    except Exception as error:  # noqa: BLE001 - one side must not end the run for the others
        run.failed[peer.name] = repr(error)
    if peer.name in run.failed:
        print(f"{peer.name} failed: {run.failed[peer.name]}", file=sys.stderr, flush=True)


def _start(run: Run, peer: side.Peer, python: Path, cases: Sequence[str]) -> None:
    models = next(iter(run.models.values())).path.parent
    with tempfile.TemporaryDirectory(prefix="mb-") as scratch:
        place = side.Place(cases[0], python, models, Path(scratch), side.free_ports(4))
        with process.started(peer.command(place), peer.environment(place), Path(scratch)) as running:
            _put_cases(run, peer, f"http://127.0.0.1:{place.port}", running, cases=cases)


def _put_cases(run: Run, peer: side.Peer, base: str, running: process.Running, *, cases: Sequence[str]) -> None:
    offered = [(case, peer.cases[case]) for case in cases]
    for case, asked in offered:
        body = asked.encode(run.models[side.MODEL_OF[case]])[0]
        process.wait_for(running, base + asked.path, body, peer.headers, peer.start_s)
    tree = running.tree()
    for case, asked in offered:
        run.load(peer.name, case, asked, base=base, headers=peer.headers, tree=tree)


def measure_moorage(run: Run, sides: Sequence[str]) -> None:
    """The same on a platform of our own."""
    needed = {side.MODEL_OF[case] for case in run.options.cases}
    models = [model for name, model in run.models.items() if name in needed]
    try:
        with moorage_side.started(models, sides) as running:
            for name in sides:
                run.told[name] = {
                    "versions": {"moorage": metadata.version("moorage-router")},
                    "settings": moorage_side.SETTINGS[name],
                }
                for case in run.options.cases:
                    asked = running.asked(case, single=name != verdicts.OURS)
                    run.load(name, case, asked, base=running.router, headers=running.headers, tree=running.tree())
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the peers' figures are kept
        run.failed.update(dict.fromkeys(sides, repr(error)))
        print(f"moorage failed: {error!r}", file=sys.stderr, flush=True)


def options() -> Options:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [peer.name for peer in peers.ALL]
    parser.add_argument("--cases", default="digits,binary,onnx", help="onnx is onnx-json and onnx-binary")
    parser.add_argument("--peers", help="of " + ", ".join([*names, *moorage_side.SETTINGS]) + "; all if left out")
    parser.add_argument("--requests", type=int, default=30_000, help="most requests of a load")
    parser.add_argument("--seconds", type=float, default=1.7, help="most seconds of a load")
    parser.add_argument("--repeats", type=int, default=2, help="rounds; the best of each side counts")
    parser.add_argument("--envs", type=Path, default=Path("~/.cache/moorage-bench"), help="where environments are made")
    parser.add_argument("--quick", action="store_true", help="one round of short loads: does everything run?")
    args = parser.parse_args()
    cases = [c for word in args.cases.split(",") for c in (("onnx-json", "onnx-binary") if word == "onnx" else (word,))]
    sides = [*moorage_side.SETTINGS, *names]
    chosen = args.peers.split(",") if args.peers else sides
    for word, known in ((cases, side.CASES), (chosen, sides)):
        if unknown := set(word) - set(known):
            parser.error(f"unknown: {', '.join(sorted(unknown))}; choose from {', '.join(known)}")
    seconds, repeats = (0.5, 1) if args.quick else (args.seconds, args.repeats)
    return Options(tuple(cases), tuple(chosen), args.envs.expanduser(), args.requests, seconds, repeats)


def main() -> int:
    wanted = options()
    with ExitStack() as stack:
        models = workload.make(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mb-models-"))))
        run = Run(wanted, models)
        ours = [name for name in wanted.sides if name in moorage_side.SETTINGS]
        theirs = [peer for peer in peers.ALL if peer.name in wanted.sides]
        for number in range(wanted.repeats):
            if ours:
                measure_moorage(run, ours)
            for peer in theirs if number % 2 == 0 else reversed(theirs):
                measure_peer(run, peer)
    show(run)
    return 1 if run.failed else 0


def show(run: Run) -> None:
    """Print the tables and keep everything."""
    best = verdicts.best_runs(run.measured)
    for case in run.options.cases:
        if rows := [_row(m) for m in best if m.case == case]:
            rows.sort(key=lambda row: (row["c"], -row["requests/s"]))
            report.table(f"{case}: best of {run.options.repeats}", rows)
    found = verdicts.judge(best)
    if found:
        report.table("Moorage against the best peer (ratios: moorage / peer)", [_judged(v) for v in found])
    if run.told:
        report.table("Settings", [_told(name, told) for name, told in run.told.items()])
    for name, why in run.failed.items():
        print(f"\n{name} failed:\n{why}")
    path = report.keep(
        "dataplane",
        {
            "options": {"seconds": run.options.seconds, "repeats": run.options.repeats, "warmup_s": WARMUP_S},
            "load_average": psutil.getloadavg(),
            "sides": run.told,
            "failed": run.failed,
            "verdicts": [asdict(v) for v in found],
            "results": [asdict(m) for m in run.measured],
        },
    )
    print(path)


def _row(one: Measured) -> dict[str, Any]:
    r = one.result
    return {
        "c": r.connections, "side": one.side, "wire": one.wire, "requests/s": r.per_second, "p50 ms": r.p50_ms,
        "p99 ms": r.p99_ms, "errors": r.errors, "wrong": r.mismatches, "CPU us": one.cpu_us, "load's us": r.client_us,
    }  # fmt: skip


def _judged(v: verdicts.Verdict) -> dict[str, Any]:
    return {
        "case": v.case, "c": v.connections, "best peer": v.best_peer, "requests/s": f"{v.throughput_ratio:.2f}x",
        "p99": f"{v.p99_ratio:.2f}x", "p50 to quickest": f"{v.p50_ratio:.2f}x", "target": v.target,
        "met": "yes" if v.met else "NO",
    }  # fmt: skip


def _told(name: str, told: Mapping[str, Any]) -> dict[str, Any]:
    versions = ", ".join(f"{package} {version}" for package, version in told["versions"].items())
    return {"side": name, "versions": versions, "settings": told["settings"]}


if __name__ == "__main__":
    sys.exit(main())
