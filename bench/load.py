"""A bounded closed-loop HTTP/1.1 load: `connections` keep-alive connections, each sends its next request on the answer.

Runs in a process of its own (`python bench/load.py` reads a job as JSON on standard input), so that it does not share
the event loop of what it measures. Only loopback addresses are taken.
"""

import asyncio
import ipaddress
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import cast
from urllib.parse import urlsplit

import httptools
import numpy as np
import uvloop


@dataclass(frozen=True)
class Job:
    """`requests` in all after `warmup`, spread over `connections`; the body is sent as it is."""

    url: str
    body: str
    connections: int
    requests: int
    warmup: int = 200
    headers: dict[str, str] = field(default_factory=dict)


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


class _Connection(asyncio.Protocol):
    def __init__(self, run: "_Run") -> None:
        self.run = run
        self.sent_at = 0.0
        self.transport: asyncio.Transport | None = None
        self.parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.send()

    def send(self) -> None:
        assert self.transport is not None
        if self.run.left <= 0:
            self.transport.close()
            return
        self.run.left -= 1
        self.sent_at = time.perf_counter()
        self.transport.write(self.run.message)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        self.run.took(self.parser.get_status_code(), time.perf_counter() - self.sent_at)
        self.parser = httptools.HttpResponseParser(self)
        asyncio.get_running_loop().call_soon(self.send)

    def connection_lost(self, exc: Exception | None) -> None:
        self.run.closed(early=exc is not None or (self.run.pending > 0 and self.run.left > 0))


class _Run:
    def __init__(self, job: Job, requests: int) -> None:
        parts = urlsplit(job.url)
        body = job.body.encode()
        lines = [f"POST {parts.path} HTTP/1.1", f"host: {parts.netloc}", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in job.headers.items()]
        self.message = "\r\n".join([*lines, "", ""]).encode() + body
        self.left = requests
        self.pending = job.connections
        self.latencies: list[float] = []
        self.errors = 0
        self.done = asyncio.get_running_loop().create_future()

    def took(self, status: int, seconds: float) -> None:
        if status == 200:
            self.latencies.append(seconds)
        else:
            self.errors += 1

    def closed(self, *, early: bool) -> None:
        self.errors += early
        self.pending -= 1
        if self.pending == 0 and not self.done.done():
            self.done.set_result(None)


async def _drive(job: Job, requests: int) -> tuple[_Run, float]:
    parts = urlsplit(job.url)
    run = _Run(job, requests)
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    for _ in range(job.connections):
        await loop.create_connection(lambda: _Connection(run), parts.hostname, parts.port)
    await asyncio.wait_for(run.done, timeout=120)
    return run, time.perf_counter() - started


async def _main(job: Job) -> Result:
    if not ipaddress.ip_address(urlsplit(job.url).hostname or "").is_loopback:
        raise SystemExit("the load goes to loopback addresses only")
    await _drive(job, max(job.warmup, job.connections))
    run, seconds = await _drive(job, job.requests)
    ms = np.array(run.latencies or [0.0]) * 1000
    p50, p90, p99 = (round(float(np.percentile(ms, q)), 3) for q in (50, 90, 99))
    rate = round(len(run.latencies) / seconds, 1)
    return Result(job.connections, len(run.latencies), run.errors, round(seconds, 3), rate, p50, p90, p99)


def run(job: Job) -> Result:
    """Drive `job` from a process of its own."""
    command = [sys.executable, __file__]
    done = subprocess.run(
        command, input=json.dumps(asdict(job)), stdout=subprocess.PIPE, text=True, timeout=300, check=True
    )
    return Result(**json.loads(done.stdout))


if __name__ == "__main__":
    print(json.dumps(asdict(uvloop.run(_main(Job(**json.load(sys.stdin)))))))
