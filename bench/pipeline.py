"""What Moorage's path costs a Ray Serve pipeline: the same pipeline behind Serve's own HTTP ingress, in one run.

`examples/pipeline` (four deployments, two models asked at once) runs behind `moorage up` (key, quota, routing,
metering, V2 checks) and behind Serve's proxy, in turns, each alone on the machine. Every answer is compared.

    python bench/pipeline.py [--quick]
"""

import argparse
import base64
import importlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import load
import numpy as np
import psutil
import report
from platform_run import lift_limits, platform
from sklearn.datasets import load_digits

import moorage_sdk

EXAMPLE = Path(__file__).parents[1] / "examples" / "pipeline"
NAME = "pipeline"
CONNECTIONS = (1, 4, 16)
ROWS = 16
"""Different requests of one row each."""
INPUTS = load_digits().data[:ROWS]

Side = tuple[str, dict[str, str]]
"""URL and headers."""


@contextmanager
def moorage(project: Path) -> Iterator[Side]:
    """The pipeline pushed and deployed as a tenant does."""
    with platform("--no-demo") as local:
        lift_limits(local)
        _allow_code(local)
        with moorage_sdk.Client(registry=local["registry"], router=local["router"], api_key=local["api_key"]) as client:
            version = client.push(
                f"{project / 'pipeline.py'}:app",
                name=NAME,
                format="ray-serve",
                include=["weights.npz"],
                example={"pixels": INPUTS},
            )
            client.deploy(version, cpu="400m")
        yield f"{local['router']}/v2/models/{NAME}/infer", {"authorization": f"Bearer {local['api_key']}"}


def _allow_code(local: dict[str, Any]) -> None:
    request = urllib.request.Request(
        f"{local['registry']}/v1/tenants/{local['tenant']}/limits",
        b'{"allow_code": true}',
        {"authorization": f"Bearer {local['admin_key']}", "content-type": "application/json"},
        method="PUT",
    )
    urllib.request.urlopen(request, timeout=10).close()


@contextmanager
def ray_serve(project: Path) -> Iterator[Side]:
    """The pipeline behind Serve's proxy on a Ray of its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, str(Path(__file__).with_name("serve_ingress.py")), str(project), str(port)]
    with (project / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "ready\n":
                break
        else:
            raise SystemExit((project / "serve.log").read_text()[-3000:])
        yield f"http://127.0.0.1:{port}/", {}
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def measure(name: str, side: Side, expected: list[dict[str, list[float]]], seconds: float) -> list[dict[str, Any]]:
    """Rows of the table."""
    url, headers = side
    bodies = [
        json.dumps({"inputs": [{"name": "pixels", "datatype": "FP64", "shape": [1, 64], "data": row.tolist()}]})
        for row in INPUTS
    ]
    found = []
    for connections in CONNECTIONS:
        job = load.Job(
            url=url, body="", connections=connections, requests=1_000_000, warmup=100, seconds=seconds, warmup_s=5.0,
            headers={**headers, "content-type": "application/json"},
            bodies=[base64.b64encode(body.encode()).decode() for body in bodies], expected=expected,
        )  # fmt: skip
        result = load.run(job)
        if result.errors or result.mismatches:
            raise SystemExit(f"{name}: {result.errors} errors, {result.mismatches} wrong answers: {result.first_error}")
        found.append({"side": name, **asdict(result)})
        print(f"{name:10} c={connections:<3} {result.per_second:8.1f}/s  p50 {result.p50_ms:7.2f} ms", flush=True)
    return found


def answers(project: Path) -> list[dict[str, list[float]]]:
    """What the deployments' own classes say to each request."""
    sys.path.insert(0, str(project))
    code = importlib.import_module("pipeline")
    features, classifier, novelty = (one.func_or_class() for one in (code.Features, code.Classifier, code.Novelty))
    told = []
    for row in INPUTS:
        reduced = features(row[None])
        odds = classifier(reduced)
        values = {"digit": odds.argmax(axis=1), "probability": odds.max(axis=1), "novelty": novelty(reduced)}
        told.append({name: np.asarray(value, float).tolist() for name, value in values.items()})
    return told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; the median of each side counts")
    parser.add_argument("--quick", action="store_true", help="one short round: does everything run?")
    options = parser.parse_args()
    seconds, repeats = (1.0, 1) if options.quick else (options.seconds, options.repeats)
    measured: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="mb-") as text:
        project = Path(text)
        shutil.copy(EXAMPLE / "pipeline.py", project)
        sys.path.insert(0, str(EXAMPLE))
        importlib.import_module("train").train(1.0, project / "weights.npz")
        expected = answers(project)
        for number in range(repeats):
            sides = [("moorage", moorage), ("ray serve", ray_serve)]
            for name, started in sides if number % 2 == 0 else reversed(sides):
                with started(project) as side:
                    measured += measure(name, side, expected, seconds)
    show(measured)
    told = {"seconds": seconds, "repeats": repeats, "load_average": psutil.getloadavg()}
    print(report.keep("pipeline", {"options": told, "results": measured}))
    return 0


def show(measured: list[dict[str, Any]]) -> None:
    """Medians side by side."""

    def median(side: str, connections: int, field: str) -> float:
        return float(np.median([m[field] for m in measured if (m["side"], m["connections"]) == (side, connections)]))

    rows = []
    for connections in CONNECTIONS:
        ours, theirs = (
            {f: median(side, connections, f) for f in ("per_second", "p50_ms", "p99_ms")}
            for side in ("moorage", "ray serve")
        )
        rows.append(
            {
                "c": connections,
                "moorage requests/s": f"{ours['per_second']:.1f}",
                "ray serve requests/s": f"{theirs['per_second']:.1f}",
                "ratio": f"{ours['per_second'] / theirs['per_second']:.2f}x",
                "moorage p50/p99 ms": f"{ours['p50_ms']:.2f} / {ours['p99_ms']:.2f}",
                "ray serve p50/p99 ms": f"{theirs['p50_ms']:.2f} / {theirs['p99_ms']:.2f}",
                "p50 more by ms": f"{ours['p50_ms'] - theirs['p50_ms']:+.2f}",
            }
        )
    report.table("The same pipeline behind Moorage and behind Ray Serve's own ingress (medians)", rows)


if __name__ == "__main__":
    sys.exit(main())
