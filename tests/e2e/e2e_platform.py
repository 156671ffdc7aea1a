"""`moorage up` as a process, and load to run while parts of it are killed."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from moorage_common.tied import tied
from moorage_sdk.client import Client

Note = Callable[[str, object], None]
"""Takes a measurement's name and value, for the summary at the end."""

START_TIMEOUT_S = 240.0


@dataclass
class Platform:
    """A launcher on `state`. `info` is its `local.json`."""

    state: Path
    options: tuple[str, ...] = ("--no-demo",)
    info: dict[str, Any] = field(default_factory=dict)
    started_in_s: float = 0.0
    _launcher: subprocess.Popen[bytes] | None = None

    @property
    def _command(self) -> list[str]:
        moorage = str(Path(sys.executable).with_name("moorage"))
        return [moorage, "up", "--state", str(self.state), "--port", "0", *self.options]

    @property
    def launcher_pid(self) -> int:
        assert self._launcher is not None
        return self._launcher.pid

    def refused(self) -> str:
        """What a launcher on a directory in use says."""
        answer = subprocess.run(self._command, capture_output=True, text=True, timeout=60, check=False)
        assert answer.returncode == 1
        return answer.stdout

    def start(self) -> None:
        """Until `local.json` is there."""
        begun = time.monotonic()
        self.state.mkdir(parents=True, exist_ok=True)
        (self.state / "local.json").unlink(missing_ok=True)
        with (self.state / "up.log").open("ab") as log:
            self._launcher = subprocess.Popen(tied(self._command), stdout=log, stderr=log)
        ready = self.state / "local.json"
        while not ready.exists():
            if self._launcher.poll() is not None or time.monotonic() - begun > START_TIMEOUT_S:
                raise AssertionError(f"the platform did not start:\n{self.output()}")
            time.sleep(0.05)
        self.info = json.loads(ready.read_text())
        self.started_in_s = time.monotonic() - begun

    def end(self, number: signal.Signals = signal.SIGINT) -> float:
        """As Ctrl-C does; returns the seconds it took."""
        begun = time.monotonic()
        if self._launcher is not None:
            self._launcher.send_signal(number)
            self._launcher.wait(timeout=60)
            self._launcher = None
        return time.monotonic() - begun

    def output(self) -> str:
        """What the launcher printed."""
        return (self.state / "up.log").read_text()

    def client(self) -> Client:
        return Client(self.info["registry"], self.info["router"], self.info["api_key"])

    def admin(self, tenant: str | None = None) -> Client:
        return Client(self.info["registry"], self.info["router"], self.info["admin_key"], tenant=tenant)

    def pid(self, name: str) -> int:
        """Of a child of the launcher: `registry`, `router-0`, `scheduler`, `feature-proxy`, `nats`, `redis`, `ray`."""
        noted = json.loads((self.state / "processes.json").read_text())
        return int(noted["processes"][name][0])

    def kill(self, name: str) -> None:
        """SIGKILL, and wait until the launcher has started it again."""
        killed = self.pid(name)
        os.kill(killed, signal.SIGKILL)
        until(lambda: self.pid(name) != killed, 10, f"another {name}")

    def hosts(self) -> dict[str, int]:
        """Process ids of replica hosts by host id, as the scheduler logged them last."""
        found = {}
        for line in (self.state / "logs" / "scheduler.log").read_text().splitlines():
            if line.startswith("{") and (event := json.loads(line)).get("event") == "host":
                found[event["host_id"]] = event["pid"]
        return found


def until(condition: Any, timeout_s: float, what: str) -> float:
    """Poll `condition`; the seconds it took. Raises AssertionError naming `what`."""
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > timeout_s:
            raise AssertionError(f"{what} did not come within {timeout_s:g} s")
        time.sleep(0.05)
    return time.monotonic() - begun


@dataclass(frozen=True)
class Outcome:
    """One request: monotonic seconds, and its status, or the failure's name."""

    begun: float
    ended: float
    status: int | str

    @property
    def is_ok(self) -> bool:
        return self.status == 200


class Load:
    """Requests at a steady rate from a thread of its own, each one made once, never retried."""

    def __init__(self, url: str, api_key: str, body: bytes, rate: float = 20.0) -> None:
        self._url, self._body, self._rate = url, body, rate
        self._headers = {"authorization": f"Bearer {api_key}", "content-type": "application/json"}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self.outcomes: list[Outcome] = []

    def __enter__(self) -> Self:
        self._thread.start()
        until(lambda: any(outcome.is_ok for outcome in self.outcomes), 30, "the first answer under load")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=60)

    def failed(self, since: float = 0.0) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if not outcome.is_ok and outcome.begun >= since]

    async def _run(self) -> None:
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=4)
        async with httpx.AsyncClient(timeout=30, limits=limits, trust_env=False) as http, asyncio.TaskGroup() as group:
            due = time.monotonic()
            while not self._stop.is_set():
                group.create_task(self._one(http))
                due += 1 / self._rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _one(self, http: httpx.AsyncClient) -> None:
        begun = time.monotonic()
        try:
            answer = await http.post(self._url, content=self._body, headers=self._headers)
            status: int | str = answer.status_code
        except httpx.HTTPError as error:
            status = type(error).__name__
        self.outcomes.append(Outcome(begun, time.monotonic(), status))
