"""A steady open-loop load: each stream sends a request every so often, whether or not earlier ones were answered.

Runs in a process of its own. Every request is made once, never again, and its outcome is a line of the file: stream,
seconds when it began and ended (of the clock that all processes of a machine share), status, code of the refusal.
Only loopback addresses are taken.
"""

import asyncio
import ipaddress
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

import httpx

TIMEOUT_S = 60.0
MOST_PENDING = 1000


@dataclass(frozen=True)
class Stream:
    """Requests of one kind. `per_second` of them, whatever happens."""

    name: str
    url: str
    body: str
    headers: dict[str, str]
    per_second: float


@dataclass(frozen=True)
class Outcome:
    """One request. `status` is 0 where the connection to the router failed; `code` says more of what is not 200."""

    stream: str
    begun: float
    ended: float
    status: int
    code: str

    @property
    def ok(self) -> bool:
        return self.status == 200


@dataclass(frozen=True)
class Steady:
    """A load under way."""

    path: Path

    def outcomes(self) -> list[Outcome]:
        """Those of all requests that ended until now."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return [_outcome(line) for line in lines if line.endswith(";")]


def _outcome(line: str) -> Outcome:
    stream, begun, ended, status, code = line.rstrip(";").split(" ")
    return Outcome(stream, float(begun), float(ended), int(status), code)


@contextmanager
def steady(streams: list[Stream], path: Path) -> Iterator[Steady]:
    """Load during the block; at its end no more is sent, and what is pending is waited for."""
    job = json.dumps({"path": str(path), "streams": [asdict(stream) for stream in streams]})
    process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, text=True)
    assert process.stdin is not None
    try:
        process.stdin.write(job + "\n")
        process.stdin.flush()
        yield Steady(path)
    finally:
        process.stdin.close()
        if process.wait(TIMEOUT_S + 10) != 0:
            raise SystemExit("the load failed")


async def _ask(http: httpx.AsyncClient, stream: Stream, out: TextIO) -> None:
    begun = time.monotonic()
    try:
        answer = await http.post(stream.url, content=stream.body, headers=stream.headers)
        status, code = answer.status_code, answer.headers.get("moorage-error", "-")
    except httpx.HTTPError as error:
        status, code = 0, type(error).__name__
    out.write(f"{stream.name} {begun:.4f} {time.monotonic():.4f} {status} {code};\n")
    out.flush()


async def _send(http: httpx.AsyncClient, stream: Stream, out: TextIO, stop: asyncio.Event) -> None:
    due = time.monotonic()
    pending: set[asyncio.Task[None]] = set()
    while not stop.is_set() and len(pending) < MOST_PENDING:
        task = asyncio.create_task(_ask(http, stream, out))
        pending.add(task)
        task.add_done_callback(pending.discard)
        due += 1 / stream.per_second
        await asyncio.sleep(max(0.0, due - time.monotonic()))
    await asyncio.gather(*pending)


async def _load(streams: list[Stream], out: TextIO) -> None:
    for stream in streams:
        if not ipaddress.ip_address(httpx.URL(stream.url).host).is_loopback:
            raise SystemExit("the load goes to loopback addresses only")
    stop = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), stop.set)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=16)
    async with httpx.AsyncClient(timeout=TIMEOUT_S, limits=limits, trust_env=False) as http:
        await asyncio.gather(*(_send(http, stream, out, stop) for stream in streams))


def _main() -> None:
    job = json.loads(sys.stdin.readline())
    with Path(job["path"]).open("w") as out:
        asyncio.run(_load([Stream(**one) for one in job["streams"]], out))


if __name__ == "__main__":
    _main()
