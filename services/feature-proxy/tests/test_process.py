"""The process as the launcher starts it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
from moorage_common.testing.servers import free_port


def environment(tmp_path: Path, port: int, ops_port: int) -> dict[str, str]:
    return os.environ | {
        "MOORAGE_PORT": str(port),
        "MOORAGE_OPS_PORT": str(ops_port),
        "MOORAGE_NATS_URL": f"nats://127.0.0.1:{free_port()}",
        "MOORAGE_REDIS_URL": f"redis://127.0.0.1:{free_port()}/0",
        "MOORAGE_PEPPER": "pepper",
        "MOORAGE_STATE_DIR": str(tmp_path / "state"),
    }


def test_it_starts_without_nats_and_redis_says_why_it_is_not_ready_and_ends_on_sigterm(tmp_path: Path) -> None:
    port, ops_port = free_port(), free_port()
    command = [sys.executable, "-m", "moorage_feature_proxy"]
    with subprocess.Popen(command, env=environment(tmp_path, port, ops_port)) as process:
        try:
            deadline = time.monotonic() + 30
            while True:
                try:
                    ready = httpx.get(f"http://127.0.0.1:{ops_port}/readyz", timeout=2)
                    break
                except httpx.TransportError:
                    assert process.poll() is None
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
            assert ready.status_code == 503
            assert "bus" in ready.json()["error"]
            assert httpx.get(f"http://127.0.0.1:{port}/v1/features/services", timeout=2).status_code == 401
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=15) == 0
        finally:
            process.kill()


def test_the_proxy_does_not_load_feasts_sdk() -> None:
    program = (
        "import sys; import moorage_feature_proxy.app; print([m for m in ('feast', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_feasts_sdk_can_be_imported_after_the_proxys_protos() -> None:
    program = (
        "import moorage_feature_proxy.feast_protos as p; import feast; "
        "from feast.protos.feast.core.Registry_pb2 import Registry; "
        "print(Registry is p.Registry, feast.FeatureStore.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "True FeatureStore"
