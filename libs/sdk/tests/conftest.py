"""A registry process with a tenant, for tests of the client against the real thing."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from moorage_common import api_keys
from moorage_common.testing.servers import free_port, wait_until
from moorage_sdk.client import Client

sys.path.append(str(Path(__file__).parent))
from sdk_far_side import FarServer, FarSide

SCOPES = ["infer:*", "models:write", "deploy:write", "events:read", "logs:read", "usage:read", "keys:admin"]


@dataclass(frozen=True)
class Registry:
    """Where it is, and keys of an administrator and of the tenant `harbour`."""

    url: str
    admin_key: str
    api_key: str


def _ready(port: int, process: subprocess.Popen[bytes], log: Path) -> bool:
    if process.poll() is not None:
        raise RuntimeError(f"the registry ended with {process.returncode}\n{log.read_text()[-4000:]}")
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def registry(nats_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """One registry process that a module's tests share; nothing validates or runs what they push."""
    state, port, ops_port, admin_key = (
        tmp_path_factory.mktemp("registry"),
        free_port(),
        free_port(),
        api_keys.mint().text,
    )
    url = f"http://127.0.0.1:{port}"
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("MOORAGE_")},
        "MOORAGE_PORT": str(port),
        "MOORAGE_OPS_PORT": str(ops_port),
        "MOORAGE_NATS_URL": nats_url,
        "MOORAGE_DATABASE_URL": f"sqlite+aiosqlite:///{state}/registry.db",
        "MOORAGE_PEPPER": "p" * 32,
        "MOORAGE_ARTIFACT_DIR": str(state / "artifacts"),
        "MOORAGE_PUBLIC_URL": url,
        "MOORAGE_BOOTSTRAP_ADMIN_KEY": admin_key,
    }
    log = state / "registry.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "moorage_registry"], env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            wait_until(lambda: _ready(ops_port, process, log), timeout_s=90, what="the registry")
            with Client(url, url, admin_key) as admin:
                admin.registry.create_tenant("harbour")
            with Client(url, url, admin_key, tenant="harbour") as admin:
                key = str(admin.registry.create_key(SCOPES)["key"])
            yield Registry(url, admin_key, key)
        finally:
            process.terminate()
            process.wait(timeout=30)


@pytest.fixture
def client(registry: Registry) -> Iterator[Client]:
    with Client(registry.url, "http://127.0.0.1:9", registry.api_key) as found:
        yield found


@pytest.fixture
def far() -> Iterator[FarSide]:
    """A V2 server with the model `double`."""
    side = FarSide()
    with FarServer(side):
        yield side


@pytest.fixture
def caller(far: FarSide) -> Iterator[Client]:
    with Client("", far.url, "key") as found:
        yield found
