"""What the platform costs: router + host against the same model in a bare uvicorn app, in one run.

Both sides answer the same V2 JSON request for the same scikit-learn model on digits, one replica, one process each;
key check, quota, routing, metrics and metering are on. `--profile` samples router and host with py-spy under load.

    python bench/overhead.py [--requests 20000] [--profile]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import load
import psutil
import report
import skops.io
from platform_run import lift_limits, platform
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import moorage_sdk

CONNECTIONS = (1, 32, 128)


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str, body: str, headers: dict[str, str]) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while True:
        try:
            request = urllib.request.Request(url, body.encode(), {**headers, "content-type": "application/json"})
            with urllib.request.urlopen(request, timeout=5) as answer:
                return json.load(answer)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def profile(pid: int, seconds: int) -> list[tuple[str, float]]:
    """Share of samples by the innermost frame's module, of the samples that hold the interpreter."""
    with tempfile.NamedTemporaryFile(suffix=".raw") as raw:
        command = [
            str(Path(sys.executable).parent / "py-spy"),
            "record",
            "-d",
            str(seconds),
            "-r",
            "500",
            "-g",
            "-f",
            "raw",
        ]
        subprocess.run(
            [*command, "-o", raw.name, "-p", str(pid)], check=True, capture_output=True, timeout=seconds + 60
        )
        shares: Counter[str] = Counter()
        for line in Path(raw.name).read_text().splitlines():
            stack, _, count = line.rpartition(" ")
            inner = stack.split(";")[-1]
            place = inner[inner.find("(") + 1 : inner.rfind(":")]
            parts = Path(place).parts
            shares["/".join(parts[-2:]) + " " + inner.split(" ")[0]] += int(count)
    total = sum(shares.values()) or 1
    return [(name, round(100 * n / total, 1)) for name, n in shares.most_common(15)]


def pids(state: str) -> dict[str, int]:
    """The router and the busiest replica host of the platform that keeps its state in `state`."""
    found: dict[str, int] = {}
    for process in psutil.process_iter(["pid", "cmdline", "environ"]):
        words = " ".join(process.info["cmdline"] or [])
        environment = process.info["environ"] or {}
        if "moorage_router" in words and environment.get("MOORAGE_STATE_DIR", "").startswith(state):
            found["router"] = process.info["pid"]
        if words.startswith("ray::PlacedHost"):
            found["host"] = process.info["pid"]
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--requests", type=int, default=20_000, help="requests a side and concurrency")
    options.add_argument("--repeats", type=int, default=2, help="rounds; the best of each side counts")
    options.add_argument("--profile", action="store_true", help="sample router and host under load")
    args = options.parse_args()
    x, y = load_digits(return_X_y=True)
    model = LogisticRegression(max_iter=300).fit(x / 16, y)
    tensor = {"name": "input", "datatype": "FP64", "shape": [1, 64], "data": (x[0] / 16).tolist()}

    with platform("--no-demo") as local, tempfile.TemporaryDirectory() as scratch:
        lift_limits(local)
        client = moorage_sdk.Client(registry=local["registry"], router=local["router"], api_key=local["api_key"])
        version = client.push(model, name="overhead", example=x[:8] / 16)
        client.deploy(version)
        tensor["name"] = version.signature.inputs[0].name
        body = json.dumps({"inputs": [tensor]})
        artifact, port = Path(scratch, "model.skops"), free_port()
        skops.io.dump(model, artifact)
        bare = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("bare_app.py")), str(artifact), str(port)]
        )
        try:
            sides = {
                "bare uvicorn": load.Job(f"http://127.0.0.1:{port}/", body, 1, args.requests),
                "moorage": load.Job(
                    f"{local['router']}/v2/models/overhead/infer", body, 1, args.requests,
                    headers={"authorization": f"Bearer {local['api_key']}"},
                ),
            }  # fmt: skip
            answers = {name: wait_for(job.url, body, job.headers)["outputs"][0]["data"] for name, job in sides.items()}
            assert len({str(a) for a in answers.values()}) == 1, answers
            results = measure(sides, args.repeats)
            profiles = profile_under_load(sides["moorage"], local["state"]) if args.profile else {}
        finally:
            bare.terminate()
            bare.wait(10)
    report.table("Router + host against a bare uvicorn app, same model", rows(results))
    for name, shares in profiles.items():
        report.table(f"Where {name} spends its time (c = 32)", [{"share %": s, "function": f} for f, s in shares])
    path = report.keep(
        "overhead", {"results": {k: [asdict(r) for r in v] for k, v in results.items()}, "profiles": profiles}
    )
    print(path)


def measure(sides: dict[str, load.Job], repeats: int) -> dict[str, list[load.Result]]:
    results: dict[str, list[load.Result]] = {name: [] for name in sides}
    for connections in CONNECTIONS:
        for name, job in sides.items():
            count = job.requests if connections > 1 else max(1000, job.requests // 5)
            runs = [load.run(replace(job, connections=connections, requests=count)) for _ in range(repeats)]
            assert not any(r.errors for r in runs), (name, runs)
            results[name].append(max(runs, key=lambda r: r.per_second))
    return results


def rows(results: dict[str, list[load.Result]]) -> list[dict[str, Any]]:
    out = []
    for bare, ours in zip(results["bare uvicorn"], results["moorage"], strict=True):
        for name, r in (("bare uvicorn", bare), ("moorage", ours)):
            ratio = round(r.per_second / bare.per_second, 2)
            out.append(
                {"c": r.connections, "side": name, "requests/s": r.per_second, "p50 ms": r.p50_ms, "p99 ms": r.p99_ms,
                 "throughput ratio": ratio, "p50 ratio": round(r.p50_ms / bare.p50_ms, 2)}
            )  # fmt: skip
    return out


def profile_under_load(job: load.Job, state: str) -> dict[str, list[tuple[str, float]]]:
    from concurrent.futures import ThreadPoolExecutor

    found = pids(state)
    with ThreadPoolExecutor(3) as pool:
        driving = pool.submit(load.run, replace(job, connections=32, requests=40_000))
        time.sleep(1)
        sampled = {name: pool.submit(profile, pid, 5) for name, pid in found.items()}
        shares = {name: future.result() for name, future in sampled.items()}
        driving.result()
    return shares


if __name__ == "__main__":
    main()
