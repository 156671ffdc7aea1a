"""The registry as a process: starts without NATS, streams events as they happen, ends when told."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from moorage_common import api_keys
from moorage_common.testing.servers import free_port, wait_until

ADMIN_KEY = api_keys.mint().text


@dataclass
class Running:
    process: subprocess.Popen[bytes]
    base_url: str
    operations: httpx.Client
    log: Path

    def ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.operations.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """A registry whose NATS does not run."""
    port, ops_port = free_port(), free_port()
    variables = {
        "PORT": str(port),
        "OPS_PORT": str(ops_port),
        "NATS_URL": f"nats://127.0.0.1:{free_port()}",
        "DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path}/registry.db",
        "PEPPER": "0123456789abcdef",
        "ARTIFACT_DIR": str(tmp_path / "artifacts"),
        "PUBLIC_URL": f"http://127.0.0.1:{port}",
        "BOOTSTRAP_ADMIN_KEY": ADMIN_KEY,
    }
    environment = os.environ | {f"MOORAGE_{name}": value for name, value in variables.items()}
    path = tmp_path / "log"
    with (
        path.open("wb") as log,
        httpx.Client(base_url=f"http://127.0.0.1:{ops_port}") as operations,
        subprocess.Popen([sys.executable, "-m", "moorage_registry"], env=environment, stderr=log) as process,
    ):
        started = Running(process, f"http://127.0.0.1:{port}", operations, path)
        try:
            wait_until(started.ready, timeout_s=90)
            yield started
        finally:
            process.kill()


async def test_events_are_streamed_as_they_happen_until_the_registry_is_told_to_end(running: Running) -> None:
    assert "moorage_registry_outbox_rows" in running.operations.get("/metrics").text
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    seen: list[str] = []
    told = 0.0
    async with (
        asyncio.timeout(60),
        httpx.AsyncClient(base_url=running.base_url, headers=headers) as http,
        http.stream("GET", "/v1/events") as stream,
    ):
        assert stream.headers["content-type"].startswith("text/event-stream")
        async for line in stream.aiter_lines():
            if not line.startswith("data: "):
                continue
            seen.append(json.loads(line.removeprefix("data: "))["type"])
            if len(seen) == 2:
                await http.post("/v1/keys", json={"scopes": ["infer:*"]})
            if len(seen) == 3:
                told = time.monotonic()
                running.process.send_signal(signal.SIGTERM)
    assert seen == ["tenant.created", "key.created", "key.created"]
    assert await asyncio.to_thread(running.process.wait, 20) == 0
    assert time.monotonic() - told < 9, "a follower must not hold up the end"
    assert ADMIN_KEY not in running.log.read_text()
