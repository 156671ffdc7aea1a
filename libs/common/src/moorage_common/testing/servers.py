"""Servers started for a test, and killed or restarted by it."""

import contextlib
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from moorage_common import embedded
from moorage_common.testing import postgres
from moorage_common.tied import tied

START_TIMEOUT_S = 30.0


def free_port() -> int:
    """A loopback TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((embedded.HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(
    condition: Callable[[], bool], *, timeout_s: float = START_TIMEOUT_S, what: str = "the condition"
) -> None:
    """Poll `condition` every 20 ms. Raises TimeoutError naming `what`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            message = f"{what} did not come within {timeout_s:g} s"
            raise TimeoutError(message)
        time.sleep(0.02)


@dataclass
class Server:
    """A server process. `kill` is SIGKILL, `stop` SIGTERM; `start` runs the same command on the same data again."""

    url: str
    port: int
    directory: Path
    command: Sequence[str]
    answers: Callable[[], bool]
    uid: int | None = None
    _process: subprocess.Popen[bytes] | None = None
    _log: IO[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self._log = (self.directory / "server.log").open("ab")

    @property
    def pid(self) -> int:
        """Of the running process; 0 when it does not run."""
        return self._process.pid if self._process is not None else 0

    def start(self) -> None:
        """Start and wait until it answers. Raises RuntimeError with the log when it ends instead."""
        self._process = subprocess.Popen(
            tied(self.command, uid=self.uid),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            cwd=self.directory,
        )
        try:
            wait_until(self._answers_or_ended, what=f"an answer of {Path(self.command[0]).name}")
        except TimeoutError as error:
            self.kill()
            raise RuntimeError(f"{error}\n{self.log_text()}") from error

    def _answers_or_ended(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            message = f"{self.command[0]} ended with {self._process.returncode}\n{self.log_text()}"
            raise RuntimeError(message)
        return self.answers()

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and wait until it is gone."""
        self._end(signal.SIGTERM)

    def restart(self) -> None:
        """Kill if it still runs, then start on the same port and data."""
        self.kill()
        self.start()

    def log_text(self) -> str:
        return (self.directory / "server.log").read_text(errors="replace")[-4000:]

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=10)

    def close(self) -> None:
        self.kill()
        self._log.close()


@contextlib.contextmanager
def _running(server: Server) -> Iterator[Server]:
    try:
        server.start()
        yield server
    finally:
        server.close()


@contextlib.contextmanager
def nats_server(directory: Path, port: int | None = None, password: str = "") -> Iterator[Server]:
    """A nats-server with JetStream stored in `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    taken = port or free_port()
    command = embedded.nats_command(directory, taken, password)
    url = embedded.nats_url(taken, password)
    with _running(Server(url, taken, directory, command, lambda: _answer(taken).startswith(b"INFO"))) as server:
        yield server


@contextlib.contextmanager
def redis_server(
    directory: Path, port: int | None = None, password: str | None = None, *, appendonly: bool = False
) -> Iterator[Server]:
    """A Redis with its data in `directory`; a random password unless one is given (`""` for none)."""
    directory.mkdir(parents=True, exist_ok=True)
    taken = port or free_port()
    secret = secrets.token_hex(8) if password is None else password
    command = embedded.redis_command(directory, taken, secret, appendonly=appendonly)
    url = embedded.redis_url(taken, secret)
    ping = (f"AUTH {secret}\r\n" if secret else "").encode() + b"PING\r\n"
    with _running(Server(url, taken, directory, command, lambda: b"+PONG" in _answer(taken, ping))) as server:
        yield server


@contextlib.contextmanager
def postgres_server(port: int | None = None) -> Iterator[Server]:
    """A Postgres with user `postgres` and no password. `url` is for SQLAlchemy with asyncpg.

    The data lies in a temporary directory: Postgres refuses to run as root, so for root it belongs to another user.
    """
    directory = Path(tempfile.mkdtemp(prefix="moorage-pg-"))
    taken = port or free_port()
    try:
        programs = postgres.programs(directory)
        uid = postgres.unprivileged_uid()
        data = postgres.make_cluster(programs, directory, uid)
        command = postgres.command(programs, data, taken)
        url = f"postgresql+asyncpg://postgres@{embedded.HOST}:{taken}/postgres"
        with _running(
            Server(url, taken, directory, command, lambda: postgres.is_ready(programs, taken), uid)
        ) as server:
            yield server
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _answer(port: int, question: bytes = b"") -> bytes:
    """The first bytes of what the server says to `question`; empty when it does not listen."""
    try:
        with socket.create_connection((embedded.HOST, port), timeout=1) as connection:
            connection.settimeout(1)
            connection.sendall(question)
            said = connection.recv(4096)
            while question and said.count(b"\r\n") < question.count(b"\r\n"):
                more = connection.recv(4096)
                if not more:
                    break
                said += more
            return said
    except OSError:
        return b""
