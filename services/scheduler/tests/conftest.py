"""One Ray head a session, a driver in this process, and schedulers as processes of their own."""

import hashlib
import os
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import pytest

from moorage_common.contracts.desired import ArtifactRef
from moorage_common.testing.servers import free_port
from moorage_common.tied import tied
from moorage_local.ray_head import environment, start_command

sys.path.append(str(Path(__file__).parent))
os.environ.update(environment(secrets.token_hex(16)))  # Ray reads these when it is imported

import ray

from moorage_scheduler.cluster import Cluster, RayNode


@contextmanager
def ray_head(gpus: int, cpus: int) -> Iterator[str]:
    """A Ray head of the launcher's own kind; its address."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="mr-", dir="/tmp", ignore_cleanup_errors=True) as directory:
        log = (Path(directory) / "head.log").open("wb")
        process = subprocess.Popen(
            tied(start_command(sys.executable, port, gpus, cpus, directory)), stdout=subprocess.PIPE, stderr=log
        )
        killer = threading.Timer(90, process.kill)
        killer.start()
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            killer.cancel()
            assert line == b"ready\n", (Path(directory) / "head.log").read_text()[-3000:]
            yield f"127.0.0.1:{port}"
        finally:
            killer.cancel()
            process.kill()
            process.wait(timeout=20)
            if process.stdout is not None:
                process.stdout.close()
            log.close()


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    with ray_head(gpus=2, cpus=2) as address:
        yield address
        ray.shutdown()  # a driver whose head dies ends its whole process


class Stand:
    """A replica host reduced to what decisions about Ray need."""

    def __init__(self, config_json: str) -> None:
        self._config = config_json

    def identity(self) -> dict[str, object]:
        return {"pid": os.getpid(), "visible": os.environ.get("CUDA_VISIBLE_DEVICES"), "config": self._config}


@pytest.fixture
async def cluster(ray_address: str) -> AsyncIterator[Cluster]:
    """A driver whose hosts are `Stand`s. What a test leaves running is removed."""
    cluster = Cluster(ray_address, Stand)
    await cluster.connect()
    yield cluster
    for placed in await cluster.running():
        await cluster.remove(placed.host_id)


@pytest.fixture
async def node(cluster: Cluster) -> RayNode:
    (node,) = await cluster.nodes()
    await cluster.ensure_groups(node)
    return node


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact cache of all hosts."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def cached(cache_dir: Path) -> Callable[[bytes], ArtifactRef]:
    """Puts a blob into the hosts' cache."""

    def put(blob: bytes) -> ArtifactRef:
        digest = hashlib.sha256(blob).hexdigest()
        folder = cache_dir / "sha256" / digest
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "blob").write_bytes(blob)
        return ArtifactRef(digest=f"sha256:{digest}", size_bytes=len(blob))

    return put


@pytest.fixture(scope="session")
def artifact(cached: Callable[[bytes], ArtifactRef]) -> ArtifactRef:
    """A network that doubles its input, in the hosts' cache already."""
    tensor = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "x"], ["y"])],
        "double",
        [tensor("x", onnx.TensorProto.FLOAT, [None, 2])],
        [tensor("y", onnx.TensorProto.FLOAT, [None, 2])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    return cached(model.SerializeToString())
