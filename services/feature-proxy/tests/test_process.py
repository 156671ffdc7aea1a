"""The process as the launcher starts it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx

from moorage_common import api_keys
from moorage_common.secrets import internal_token
from moorage_common.testing.servers import free_port, wait_until


def environment(tmp_path: Path, port: int, ops_port: int) -> dict[str, str]:
    return os.environ | {
        "MOORAGE_PORT": str(port),
        "MOORAGE_OPS_PORT": str(ops_port),
        "MOORAGE_NATS_URL": f"nats://127.0.0.1:{free_port()}",
        "MOORAGE_REDIS_URL": f"redis://127.0.0.1:{free_port()}/0",
        "MOORAGE_PEPPER": "pepper",
        "MOORAGE_STATE_DIR": str(tmp_path / "state"),
    }


def test_it_starts_and_serves_routers_without_nats_or_redis_and_ends_on_sigterm(tmp_path: Path) -> None:
    port, ops_port = free_port(), free_port()
    command = [sys.executable, "-m", "moorage_feature_proxy"]
    with subprocess.Popen(command, env=environment(tmp_path, port, ops_port)) as process:
        try:
            wait_until(lambda: is_ready(process, ops_port), what="/readyz")
            services = f"http://127.0.0.1:{port}/v1/features/services"
            router = {"authorization": f"Bearer {internal_token('pepper')}", "moorage-tenant": "acme"}
            assert httpx.get(services, headers=router, timeout=2).json() == {"services": []}
            tenant = {"authorization": f"Bearer {api_keys.mint().text}"}
            refused = httpx.get(services, headers=tenant, timeout=2)
            assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=15) == 0
        finally:
            process.kill()


def is_ready(process: subprocess.Popen[bytes], ops_port: int) -> bool:
    assert process.poll() is None
    try:
        return httpx.get(f"http://127.0.0.1:{ops_port}/readyz", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


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
