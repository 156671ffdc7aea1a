"""Start a whole platform for a benchmark, and stop it again."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def platform(*options: str, deadline_s: float = 180) -> Iterator[dict[str, Any]]:
    """`moorage up` on free ports with fresh state; gives what `local.json` says, plus `state` and `pid`."""
    with tempfile.TemporaryDirectory(prefix="mrg-") as state:
        command = [str(Path(sys.executable).parent / "moorage"), "up", "--state", state, "--port", "0", *options]
        with Path(state, "up.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            yield {**_wait(Path(state), process, time.monotonic() + deadline_s), "pid": process.pid}
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def lift_limits(local: dict[str, Any]) -> None:
    """Let the demo tenant send as fast as it can; the limiter stays on."""
    limits = {"requests_per_s": 1_000_000, "burst": 1_000_000, "max_concurrent": 10_000}
    request = urllib.request.Request(
        f"{local['registry']}/v1/tenants/{local['tenant']}/limits",
        json.dumps(limits).encode(),
        {"authorization": f"Bearer {local['admin_key']}", "content-type": "application/json"},
        method="PUT",
    )
    urllib.request.urlopen(request, timeout=10).close()


def _wait(state: Path, process: subprocess.Popen[bytes], deadline: float) -> dict[str, Any]:
    while time.monotonic() < deadline and process.poll() is None:
        if (state / "local.json").exists():
            return {**json.loads((state / "local.json").read_text()), "state": str(state)}
        time.sleep(0.1)
    raise SystemExit("the platform did not start:\n" + (state / "up.log").read_text()[-2000:])
