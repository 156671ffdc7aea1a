"""The registry as a process: starts without NATS, streams events as they happen, ends when told."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from moorage_common import api_keys
from moorage_common.testing.servers import free_port, wait_until

ADMIN_KEY = api_keys.mint().text


@pytest.fixture
def base_url(tmp_path: Path) -> Iterator[str]:
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
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "moorage_registry"], env=environment, stderr=log)

    operations = httpx.Client(base_url=f"http://127.0.0.1:{ops_port}")

    def ready() -> bool:
        assert process.poll() is None, (tmp_path / "log").read_text()
        try:
            return operations.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_until(ready, timeout_s=60)
        assert "moorage_registry_outbox_rows" in operations.get("/metrics").text
        yield f"http://127.0.0.1:{port}"
    finally:
        operations.close()
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait()
    assert ADMIN_KEY not in (tmp_path / "log").read_text()


async def test_events_are_streamed_as_they_happen_without_a_bus(base_url: str) -> None:
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    seen: list[str] = []
    async with (
        asyncio.timeout(60),
        httpx.AsyncClient(base_url=base_url, headers=headers) as http,
        http.stream("GET", "/v1/events") as stream,
    ):
        assert stream.headers["content-type"].startswith("text/event-stream")
        async for line in stream.aiter_lines():
            if line.startswith("data: "):
                seen.append(json.loads(line.removeprefix("data: "))["type"])
            if seen == ["tenant.created", "key.created"]:
                await http.post("/v1/keys", json={"scopes": ["infer:*"]})
            if len(seen) == 3:
                break
    assert seen == ["tenant.created", "key.created", "key.created"]
