"""One Ray head a session, a driver in this process, and schedulers as processes of their own."""

import hashlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import pytest

from moorage_common.contracts.desired import ArtifactRef
from moorage_common.testing.servers import free_port
from moorage_common.tied import tied
from moorage_local import ray_nodes
from moorage_local.ray_head import environment, start_command
from moorage_local.ray_nodes import RayNodeSpec

sys.path.append(str(Path(__file__).parent))
os.environ.update(environment(secrets.token_hex(16)))  # Ray reads these when it is imported

import ray

from moorage_scheduler.cluster import Cluster, RayNode


@dataclass
class Machines:
    """Ray nodes on this machine, a process each, that come and go as machines do."""

    directory: str
    port: int
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def head(self, gpus: int, cpus: int, name: str = "") -> None:
        """Start the launcher's own kind of head."""
        self._start(name or "head", start_command(sys.executable, self.port, gpus, cpus, self.directory, name=name))

    def add(self, spec: RayNodeSpec) -> None:
        """Start a further node and wait until it can take work."""
        self._start(spec.name, ray_nodes.start_command(sys.executable, self.address, self.directory, spec))

    def kill(self, name: str) -> None:
        """SIGKILL to the node; its raylet and everything on it goes along."""
        process = self.running.pop(name)
        process.kill()
        process.wait(timeout=20)
        assert process.stdout is not None
        process.stdout.close()

    def _start(self, name: str, command: list[str]) -> None:
        path = Path(self.directory) / f"{name}.log"
        with path.open("ab") as log:
            process = self.running[name] = subprocess.Popen(tied(command), stdout=subprocess.PIPE, stderr=log)
        killer = threading.Timer(90, process.kill)
        killer.start()
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n", path.read_text()[-3000:]
        finally:
            killer.cancel()


@contextmanager
def machines() -> Iterator[Machines]:
    """No node yet; those that a test starts are gone after it."""
    with tempfile.TemporaryDirectory(prefix="mr-", dir="/tmp", ignore_cleanup_errors=True) as directory:
        found = Machines(directory, free_port())
        try:
            yield found
        finally:
            for name in list(found.running)[::-1]:
                found.kill(name)


@pytest.fixture(autouse=True)
def metrics_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Feast asks for prometheus-client's multi-process mode wherever it is imported, as by other suites of this run."""
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    monkeypatch.delenv("prometheus_multiproc_dir", raising=False)


@pytest.fixture(scope="module")
def several() -> Iterator[Machines]:
    """A cluster of its own: a head without GPUs, to which tests add nodes. No driver in this process."""
    with machines() as found:
        found.head(gpus=0, cpus=1, name="head")
        yield found


@pytest.fixture(scope="session")
def ray_machines() -> Iterator[Machines]:
    """The cluster of most tests: one node of two GPUs. A node that a test adds is gone after it."""
    with machines() as found:
        found.head(gpus=2, cpus=2)
        yield found
        ray.shutdown()  # a driver whose head dies ends its whole process


@pytest.fixture(scope="session")
def ray_address(ray_machines: Machines) -> str:
    return ray_machines.address


class Stand:
    """A replica host reduced to what decisions about Ray need."""

    def __init__(self, config_json: str) -> None:
        self._config = config_json

    def identity(self) -> dict[str, object]:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        return {"pid": os.getpid(), "visible": visible, "config": self._config, "warm": True}

    def validate(self, run_json: str) -> dict[str, object]:
        run = json.loads(run_json)
        if run["load"]["model"] == "deadly":
            os._exit(1)
        return {"run_id": run["run_id"], "version": run["load"]["version"], "state": "passed"}


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
