"""A bounded HTTP/1.1 load over `connections` keep-alive connections: closed-loop, where each sends its next request on
the answer, or paced, where so many requests a second are sent whether or not earlier ones were answered.

Runs in a process of its own (`python bench/load.py` reads a job as JSON on standard input), so that it does not share
the event loop of what it measures, and spends as little as Python can on a request, since it shares the processors:
one epoll loop over sockets, requests encoded beforehand, answers searched for their length rather than parsed. Every
answer's status is read and every body is compared, after the clock has stopped. Only loopback addresses are taken.
"""

import base64
import gc
import ipaddress
import json
import select
import socket
import subprocess
import sys
import time
from array import array
from collections import deque
from dataclasses import asdict, dataclass, field
from urllib.parse import urlsplit

import answers
import numpy as np

STALLED_S = 20.0
"""Without any answer for so long the run ends, and what is pending counts as errors."""


@dataclass(frozen=True)
class Job:
    """`requests` at most, or as many as fit into `seconds`, after a warm-up on the same connections."""

    url: str
    body: str
    connections: int
    requests: int
    warmup: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    bodies: list[str] = field(default_factory=list)
    """In base64, sent in turn in place of `body`."""
    expected: list[dict[str, list[float]]] = field(default_factory=list)
    """What each of `bodies` is answered with; empty: bodies are not looked at."""
    seconds: float = 100.0
    warmup_s: float = 10.0
    paced: float = 0.0
    """Requests a second; 0: as many as are answered. One that finds no connection idle waits, which its latency has."""


@dataclass(frozen=True)
class Result:
    """Latencies in milliseconds, over answers with status 200."""

    connections: int
    requests: int
    errors: int
    seconds: float
    per_second: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    mismatches: int = 0
    """Answers with status 200 that are not what was expected, the warm-up's among them."""
    answered: int = 0
    """All answers, the warm-up's among them."""
    client_us: float = 0.0
    """The load's own processor time a request."""
    first_error: str = ""


class _Connection:
    """One socket, the request it waits for, and what came or is still to go."""

    __slots__ = ("came", "left", "sent_at", "socket", "turn")

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.came = b""
        self.left = memoryview(b"")
        self.sent_at = 0.0
        self.turn = 0


def messages(job: Job) -> list[bytes]:
    """The requests as they go over the wire."""
    parts = urlsplit(job.url)
    out = []
    for body in [base64.b64decode(b) for b in job.bodies] or [job.body.encode()]:
        lines = [f"POST {parts.path} HTTP/1.1", f"host: {parts.netloc}", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in job.headers.items()]
        out.append("\r\n".join([*lines, "", ""]).encode() + body)
    return out


def _number(head: bytes, name: bytes) -> int | None:
    at = head.find(name)
    if at < 0:
        return None
    end = head.find(b"\r\n", at + 2)
    return int(head[at + len(name) : end if end > 0 else None])


def _dechunked(data: bytes) -> bytes | None:
    parts: list[bytes] = []
    at = 0
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            return None
        size = int(data[at:end].split(b";")[0], 16)
        if size == 0:
            return b"".join(parts) if data.endswith(b"\r\n\r\n") else None
        parts.append(data[end + 2 : end + 2 + size])
        at = end + 2 + size + 2
        if at > len(data):
            return None


def split(data: bytes) -> tuple[bytes, int | None, bytes] | None:
    """Head in lower case, length of a V2 binary answer's JSON, and body; None while the answer is not whole."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = data[:end].lower()
    length = _number(head, b"\r\ncontent-length:")
    if length is None:
        body = _dechunked(data[end + 4 :]) if b"chunked" in head else b""
        if body is None:
            return None
    else:
        body = data[end + 4 :]
        if len(body) < length:
            return None
    return head, _number(head, b"\r\ninference-header-content-length:"), body


class _Run:
    def __init__(self, job: Job) -> None:
        parts = urlsplit(job.url)
        self.job = job
        self.address = (parts.hostname or "", parts.port or 80)
        self.messages = messages(job)
        self.poll = select.epoll()
        self.connections: dict[int, _Connection] = {}
        self.latencies = array("d")
        self.seen: list[dict[tuple[int | None, bytes], int]] = [{} for _ in self.messages]
        self.answered = self.errors = self.sent = 0
        self.first_error = ""
        self.started = self.ended = float("inf")
        self.turn = 0
        self.idle: list[_Connection] = []
        self.owed: deque[float] = deque()
        self.due = 0.0

    def connect(self) -> _Connection:
        connection = _Connection(self.address)
        self.connections[connection.socket.fileno()] = connection
        self.poll.register(connection.socket.fileno(), select.EPOLLIN)
        return connection

    def send(self, connection: _Connection, now: float) -> None:
        connection.turn = self.turn
        message = self.messages[self.turn]
        self.turn = (self.turn + 1) % len(self.messages)
        self.sent += 1
        connection.sent_at = now
        done = connection.socket.send(message)
        if done < len(message):
            connection.left = memoryview(message)[done:]
            self.poll.modify(connection.socket.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def write(self, connection: _Connection) -> None:
        try:
            connection.left = connection.left[connection.socket.send(connection.left) :]
        except BlockingIOError:
            return
        if not connection.left:
            self.poll.modify(connection.socket.fileno(), select.EPOLLIN)

    def read(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(262_144)
        except BlockingIOError:
            return
        if not data:
            self.fail(connection, "the connection was closed before the answer")
            return
        if connection.came:
            data = connection.came + data
        found = split(data)
        if found is None:
            connection.came = data
            return
        connection.came = b""
        now = time.perf_counter()
        head, header_length, body = found
        self.answered += 1
        if not head.startswith(b"http/1.1 200"):
            self.fail(connection, f"{head[:60]!r} {body[:200]!r}")
            return
        seen = self.seen[connection.turn]
        key = (header_length, body)
        seen[key] = seen.get(key, 0) + 1
        if connection.sent_at >= self.started:
            self.latencies.append(now - connection.sent_at)
        self.advance(now)
        if self.over(now) or b"\r\nconnection: close" in head:
            self.close(connection)
            if not self.over(now):
                self.go_on(self.connect(), now)
        else:
            self.go_on(connection, now)

    def go_on(self, connection: _Connection, now: float) -> None:
        """The connection is free: it sends at once or, where the load is paced, when its turn comes."""
        if self.owed:
            self.send(connection, self.owed.popleft())
        elif self.job.paced:
            self.idle.append(connection)
        else:
            self.send(connection, now)

    def release(self) -> float:
        """Send what is due by now; seconds until something may be, where the load is paced."""
        now = time.perf_counter()
        if self.over(now):
            while self.idle:
                self.close(self.idle.pop())
            return STALLED_S
        while self.due <= now:
            self.due += 1 / self.job.paced
            if self.idle:
                self.send(self.idle.pop(), now)
            else:
                self.owed.append(self.due)
        return self.due - now

    def advance(self, now: float) -> None:
        if self.started == float("inf") and (self.answered >= self.job.warmup or now >= self.warm_until):
            self.started, self.ended, self.sent = now, now + self.job.seconds, 0

    def over(self, now: float) -> bool:
        return now >= self.ended or (self.started < float("inf") and self.sent >= self.job.requests)

    def fail(self, connection: _Connection, why: str) -> None:
        self.errors += 1
        self.first_error = self.first_error or why
        self.close(connection)
        now = time.perf_counter()
        self.advance(now)
        if not self.over(now) and self.errors < 1000:
            self.go_on(self.connect(), now)

    def close(self, connection: _Connection) -> None:
        self.poll.unregister(connection.socket.fileno())
        del self.connections[connection.socket.fileno()]
        connection.socket.close()

    def drive(self) -> float:
        """Run it; seconds from the end of the warm-up to the last answer."""
        begun = time.perf_counter()
        self.warm_until = begun + self.job.warmup_s
        self.due = begun
        for connection in [self.connect() for _ in range(self.job.connections)]:
            self.go_on(connection, time.perf_counter())
        wait_s = STALLED_S
        while self.connections:
            if self.job.paced:
                wait_s = self.release()
            if not self.connections:
                break
            events = self.poll.poll(wait_s)
            if not events and wait_s == STALLED_S:
                self.errors += len(self.connections)
                self.first_error = self.first_error or f"no answer for {STALLED_S:g} s"
                break
            for number, event in events:
                if number in self.connections:
                    self.step(self.connections[number], event)
        return time.perf_counter() - (begun if self.started == float("inf") else self.started)

    def step(self, connection: _Connection, event: int) -> None:
        try:
            if event & select.EPOLLOUT and connection.left:
                self.write(connection)
            if event & ~select.EPOLLOUT:
                self.read(connection)
        except OSError as error:
            self.fail(connection, repr(error))

    def mismatches(self) -> int:
        wrong = 0
        for seen, expected in zip(self.seen, self.job.expected, strict=False):
            for (length, body), count in seen.items():
                if not answers.holds(body, length, expected):
                    wrong += count
                    self.first_error = self.first_error or f"not the answer expected: {body[:200]!r}"
        return wrong


def _main(job: Job) -> Result:
    if not ipaddress.ip_address(urlsplit(job.url).hostname or "").is_loopback:
        raise SystemExit("the load goes to loopback addresses only")
    run = _Run(job)
    gc.disable()
    cpu = time.process_time()
    seconds = run.drive()
    cpu = time.process_time() - cpu
    ms = np.array(run.latencies if len(run.latencies) else [0.0]) * 1000
    p50, p90, p99 = (round(float(np.percentile(ms, q)), 3) for q in (50, 90, 99))
    return Result(
        connections=job.connections,
        requests=len(run.latencies),
        errors=run.errors,
        seconds=round(seconds, 3),
        per_second=round(len(run.latencies) / seconds, 1),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        mismatches=run.mismatches(),
        answered=run.answered,
        client_us=round(1e6 * cpu / max(1, run.answered), 1),
        first_error=run.first_error,
    )


def run(job: Job) -> Result:
    """Drive `job` from a process of its own."""
    command = [sys.executable, __file__]
    done = subprocess.run(
        command, input=json.dumps(asdict(job)), stdout=subprocess.PIPE, text=True, timeout=300, check=True
    )
    return Result(**json.loads(done.stdout))


if __name__ == "__main__":
    print(json.dumps(asdict(_main(Job(**json.load(sys.stdin))))))
