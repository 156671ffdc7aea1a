"""Start a server, wait until it answers, weigh the processor time it spends, and end it with all it started."""

import base64
import contextlib
import http.client
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from workload import Body

MARK = "MOORAGE_BENCH_RUN"


class NotStarted(Exception):
    """The server ended, or did not answer in time; the text holds its log's tail."""


@dataclass(frozen=True)
class Running:
    process: subprocess.Popen[bytes]
    mark: str
    log: Path

    def tree(self) -> list[psutil.Process]:
        """The process, its children, and those that left the tree but kept the environment."""
        found = {self.process.pid}
        with contextlib.suppress(psutil.NoSuchProcess):
            found |= {child.pid for child in psutil.Process(self.process.pid).children(recursive=True)}
        for process in psutil.process_iter(["pid"]):
            with contextlib.suppress(psutil.Error):
                if process.pid not in found and process.environ().get(MARK) == self.mark:
                    found.add(process.pid)
        return [p for pid in found if (p := _process(pid))]

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]


def _process(pid: int) -> psutil.Process | None:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid)
    return None


def cpu_seconds(processes: Sequence[psutil.Process]) -> dict[int, float]:
    """User and system time so far, by process."""
    out = {}
    for process in processes:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            out[process.pid] = times.user + times.system
    return out


@contextmanager
def started(command: Sequence[str], environment: Mapping[str, str], scratch: Path) -> Iterator[Running]:
    """Run `command` in `scratch` as a session of its own; whatever it left running is ended by id."""
    mark = uuid.uuid4().hex
    log = scratch / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            cwd=scratch,
            env={**os.environ, **environment, MARK: mark},
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    running = Running(process, mark, log)
    try:
        yield running
    finally:
        _end(running)


def _end(running: Running) -> None:
    ours = running.tree()
    running.process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        running.process.wait(15)
    left = {p.pid: p for p in [*ours, *running.tree()] if p.pid != os.getpid() and p.is_running()}
    for process in left.values():
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGKILL)
    psutil.wait_procs(left.values(), timeout=10)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(running.process.pid, signal.SIGKILL)
    running.process.wait(10)


def wait_for(running: Running, url: str, body: Body, headers: Mapping[str, str], deadline_s: float) -> None:
    """Post until the answer is 200.

    Raises:
        NotStarted: the process ended, or the time is over.
    """
    deadline = time.monotonic() + deadline_s
    last = "no connection"
    while time.monotonic() < deadline:
        if running.process.poll() is not None:
            raise NotStarted(f"ended with {running.process.returncode}\n{running.tail()}")
        try:
            status, text = post(url, body, headers)
        except (OSError, http.client.HTTPException) as error:
            last = repr(error)
        else:
            if status == 200:
                return
            last = f"{status} {text[:300]!r}"
        time.sleep(0.2)
    raise NotStarted(f"no answer with 200 in {deadline_s:g} s, last {last}\n{running.tail()}")


def post(url: str, body: Body, headers: Mapping[str, str]) -> tuple[int, bytes]:
    """One request: status and body."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    try:
        connection.request("POST", parts.path, base64.b64decode(body.data), {**headers, **body.headers})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
