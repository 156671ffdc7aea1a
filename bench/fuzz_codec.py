"""Fuzzing the codec: every input is decoded or refused with 4xx, in bounded time and memory.

Inputs are messages of every datatype, mutated in their structure. Atheris (coverage-guided) chooses them where it can
be installed for this Python, in an environment of its own under the cache directory; else a seeded mutator does. Then
each of the hostile requests of moorage_common.testing is decoded at the default limit of 64 MiB in a process of its
own, and the kernel's own count of its memory is compared with the promise of docs/decisions/0010.

    python bench/fuzz_codec.py [--inputs 1000000] [--seconds 600] [--seed 1] [--no-atheris]
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import report

from moorage_common.testing.hostile_requests import HOSTILE

LIMIT_BYTES = 64 * 1024 * 1024
HERE = Path(__file__).parent
MEASURE = """
import gc, re, sys, time
from pathlib import Path
from moorage_common.errors import MoorageError
from moorage_common.testing.hostile_requests import HOSTILE, request
from moorage_runtime import v2

def kib(field):
    return int(re.search(field + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

v2.decode_request(request("FP32", [1], b"[1]"))
body = HOSTILE[sys.argv[1]](int(sys.argv[2]) - 200)
gc.collect()
Path("/proc/self/clear_refs").write_text("5")
before, began = kib("VmRSS"), time.perf_counter()
try:
    answer = v2.decode_request(body, limit_bytes=int(sys.argv[2]))
    said = "decoded"
except MoorageError as error:
    said = str(error.status)
print(said, time.perf_counter() - began, len(body), (kib("VmHWM") - before) * 1024)
"""
"""The body is made before the kernel's high-water mark is set back, so what is measured is decoding alone."""


def environment(cache: Path) -> Path | None:
    """Where atheris is installed for this Python, None if it cannot be."""
    place = cache / f"atheris-{sys.version_info.major}.{sys.version_info.minor}"
    python = place / "bin" / "python"
    packages = place / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    if not (packages / "atheris").exists():
        venv.create(place, with_pip=True, clear=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "atheris"]
        made = subprocess.run(command, check=False, capture_output=True, text=True)
        if made.returncode:
            print(f"atheris cannot be installed: {made.stderr.strip().splitlines()[-1:]}")
            return None
    return packages


def fuzz(args: argparse.Namespace, packages: Path | None) -> dict[str, Any]:
    """Run the target until it has had its inputs or its time."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch, "report.json")
        command = [sys.executable, str(HERE / "fuzz_target.py"), f"--inputs={args.inputs}", f"--seconds={args.seconds}"]
        command += [f"--seed={args.seed}", f"--out={out}"]
        variables = dict(os.environ)
        if packages is not None:
            command.append("--atheris")
            variables["PYTHONPATH"] = os.pathsep.join(filter(None, [variables.get("PYTHONPATH"), str(packages)]))
        done = subprocess.run(
            command, check=False, env=variables, capture_output=True, text=True, timeout=args.seconds + 120
        )
        if not out.exists():
            raise SystemExit(f"the target ended without a report:\n{done.stderr[-3000:]}")
        found: dict[str, Any] = json.loads(out.read_text())
        if done.returncode:
            found["crashes"] += 1
            found["first_crashes"].append({"error": f"the process ended with {done.returncode}: {done.stderr[-2000:]}"})
        return found


def measured(name: str) -> dict[str, Any]:
    """One hostile request at the limit: what came of it, and what decoding took."""
    command = [sys.executable, "-c", MEASURE, name, str(LIMIT_BYTES)]
    said, seconds, size, growth = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=300
    ).stdout.split()
    return {
        "request": name,
        "body MiB": round(int(size) / 2**20, 1),
        "came to": said,
        "s": round(float(seconds), 2),
        "decoding MiB": round(int(growth) / 2**20, 1),
        "with body, in limits": round((int(size) + int(growth)) / LIMIT_BYTES, 2),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--inputs", type=int, default=1_000_000)
    options.add_argument("--seconds", type=float, default=600)
    options.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1, 2**31))
    options.add_argument("--no-atheris", action="store_true")
    options.add_argument("--no-hostile", action="store_true")
    args = options.parse_args()
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "moorage-bench"
    found = fuzz(args, None if args.no_atheris else environment(cache))
    shown = [k for k in found if k not in {"first_crashes", "slowest_input", "seed"}]
    report.table(f"Fuzzing the codec, seed {found['seed']}", [{k.replace("_", " "): found[k] for k in shown}])
    for crash in found["first_crashes"]:
        print(json.dumps(crash, indent=1))
    hostile = [] if args.no_hostile else [measured(name) for name in HOSTILE]
    if hostile:
        report.table("Hostile requests at the limit of 64 MiB, memory by the kernel's count", hostile)
    print(report.keep("fuzz_codec", {"fuzzing": found, "hostile": hostile}))
    raise SystemExit(1 if found["crashes"] else 0)


if __name__ == "__main__":
    main()
