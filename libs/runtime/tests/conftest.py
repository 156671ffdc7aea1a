"""Real hosts, a real HTTP store of blobs, and models trained on the spot."""

import functools
import hashlib
import http.server
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import onnx
import pytest

from moorage_common.contracts import host_calls
from moorage_common.contracts.desired import ArtifactRef, LoadSpec
from moorage_common.contracts.tensors import Signature
from moorage_runtime.config import HostConfig
from moorage_runtime.host import ReplicaHost


@dataclass
class Blobs:
    """A directory served over HTTP; `hits` names what was fetched."""

    directory: Path
    url: str
    hits: list[str]

    def put(self, blob: bytes, *, name: str | None = None) -> ArtifactRef:
        digest = hashlib.sha256(blob).hexdigest()
        (self.directory / (name or digest)).write_bytes(blob)
        return ArtifactRef(digest=f"sha256:{digest}", size_bytes=len(blob), url=f"{self.url}/{name or digest}")

    @staticmethod
    def spec(ref: ArtifactRef, model_format: str, signature: Signature, **changes: Any) -> LoadSpec:
        fields = {"tenant": "demo", "model": "m", "version": 1, "format": model_format, "artifact": ref}
        return LoadSpec.model_validate({**fields, "signature": signature, **changes})


class _Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *args: Any, hits: list[str], **kwargs: Any) -> None:
        self._hits = hits
        super().__init__(*args, **kwargs)

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        self._hits.append(self.path)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def blobs(tmp_path: Path) -> Iterator[Blobs]:
    directory, hits = tmp_path / "store", list[str]()
    directory.mkdir()
    handler = functools.partial(_Handler, directory=str(directory), hits=hits)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Blobs(directory, f"http://127.0.0.1:{server.server_port}", hits)
    server.shutdown()
    thread.join()
    server.server_close()


class Client:
    """Calls one host as a router does."""

    def __init__(self, host: ReplicaHost) -> None:
        self.host = host
        self.identity = host.identity()
        self.http = httpx.Client(base_url=f"http://{self.identity['address']}", trust_env=False, timeout=30)

    def another(self) -> "Client":
        """The same host through a connection of its own."""
        return Client(self.host)

    def infer(
        self, body: bytes, headers: dict[str, str] | None = None, *, path: str = "/v2/models/m/versions/1/infer"
    ) -> httpx.Response:
        sent = {host_calls.TOKEN: self.identity["token"], host_calls.TENANT: "demo", **(headers or {})}
        return self.http.post(path, content=body, headers=sent)


StartHost = Callable[..., Client]


@pytest.fixture(scope="session")
def doubling() -> bytes:
    """A network that doubles its input `x` into `y`, two columns of FP32."""
    tensor = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "x"], ["y"])],
        "double",
        [tensor("x", onnx.TensorProto.FLOAT, [None, 2])],
        [tensor("y", onnx.TensorProto.FLOAT, [None, 2])],
    )
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    return bytes(made.SerializeToString())


def settled(host: ReplicaHost) -> None:
    """Wait until all that the host was told to load has loaded or failed."""
    deadline = time.monotonic() + 60
    while any(v["state"] == "loading" for v in host.identity()["versions"]):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def until_ready() -> Callable[[ReplicaHost, str], Client]:
    """Assign a warm host by a config; a client of it once its versions have loaded."""

    def assign(host: ReplicaHost, config_json: str) -> Client:
        host.assign(config_json)
        settled(host)
        return Client(host)

    return assign


@pytest.fixture
def start_host(tmp_path: Path) -> Iterator[StartHost]:
    """Start hosts of tenant demo; they end with the test."""
    clients: list[Client] = []

    def start(*loads: LoadSpec, wait: bool = True, **changes: Any) -> Client:
        fields = {"host_id": "h1", "tenant": "demo", "cache_dir": str(tmp_path / "cache"), "loads": list(loads)}
        config = HostConfig.model_validate({**fields, **changes})
        client = Client(ReplicaHost(config.model_dump_json()))
        clients.append(client)
        if wait:
            settled(client.host)
        return client

    yield start
    for client in clients:
        client.http.close()
        client.host.stop()
