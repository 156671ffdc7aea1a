"""Far sides of the client's tests: a V2 server on uvicorn, and a bare socket that breaks connections on purpose."""

import asyncio
import gzip
import json
import socket
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn

from moorage_common.contracts.tensors import Datatype
from moorage_common.testing.servers import wait_until
from moorage_runtime.v2 import HEADER_LENGTH, Encoded, decode_request, encode_response

REQUEST_ID = "01J0000000000000000000000A.double.3.stable.7.0123456789abcdef01"
METADATA: dict[str, Any] = {
    "name": "double",
    "versions": ["3"],
    "platform": "moorage_onnx",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2], "parameters": {"columns": ["a", "b"]}}],
    "outputs": [
        {"name": "y", "datatype": "FP32", "shape": [-1, 2]},
        {"name": "word", "datatype": "BYTES", "shape": [-1]},
    ],
}


@dataclass(frozen=True)
class Seen:
    """One request as it came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    client: tuple[str, int]


class Refusal(Exception):
    """An answer of another status than 200."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status, self.text, self.headers = status, text, headers or {"moorage-error": "bad_request"}


@dataclass
class FarSide:
    """Model `double`, version 3: `y` is twice `x`, both are `datatype`; `word` is a text a row.

    `refusals` are answered first; after `quota` inferences each is refused.
    """

    url: str = ""
    seen: list[Seen] = field(default_factory=list)
    refusals: deque[tuple[int, dict[str, str]]] = field(default_factory=deque)
    quota: int | None = None
    datatype: Datatype = "FP32"
    takes_zeros: bool = True
    is_held: bool = False
    gone: int = 0
    at_once: int = 0
    most_at_once: int = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.seen.append(Seen(scope["method"], scope["path"], headers, body, tuple(scope["client"])))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(0)
            status, more_headers, answer = await self._answer(scope["path"], headers, body, receive)
        finally:
            self.at_once -= 1
        said = {"content-length": str(len(answer)), "moorage-request-id": REQUEST_ID, **more_headers}
        pairs = [(name.encode(), value.encode()) for name, value in said.items()]
        await send({"type": "http.response.start", "status": status, "headers": pairs})
        await send({"type": "http.response.body", "body": answer})

    async def _answer(
        self, path: str, headers: Mapping[str, str], body: bytes, receive: Any
    ) -> tuple[int, Mapping[str, str], bytes]:
        if self.is_held:
            assert (await receive())["type"] == "http.disconnect"
            self.gone += 1
        try:
            if self.refusals:
                status, more = self.refusals.popleft()
                raise Refusal(status, "no", {"moorage-error": "refused", **more})
            if path.endswith("/infer"):
                encoded = self._infer(headers, body)
            elif path.endswith("/feedback"):
                encoded = self._feedback(body)
            else:
                found = {"name": "double", "ready": True} if path.endswith("/ready") else self._metadata()
                encoded = Encoded(json.dumps(found).encode(), {"content-type": "application/json"})
        except Refusal as refusal:
            error = json.dumps({"error": refusal.text}).encode()
            return refusal.status, {"content-type": "application/json", **refusal.headers}, error
        if headers.get("accept-encoding") == "gzip":
            return 200, {**encoded.headers, "content-encoding": "gzip"}, gzip.compress(encoded.body)
        return 200, encoded.headers, encoded.body

    def _feedback(self, body: bytes) -> Encoded:
        """Ids that begin with `bad` are refused."""
        said = json.loads(body)
        items = said.get("feedback", [said])
        bad = [(index, item["id"]) for index, item in enumerate(items) if item["id"].startswith("bad")]
        if len(bad) == len(items):
            raise Refusal(422, "no label was taken", {"moorage-error": "feedback_refused"})
        refused = [{"index": index, "id": name, "code": "id_unknown", "error": "no such"} for index, name in bad]
        answer = {"accepted": len(items) - len(bad), "refused": refused}
        return Encoded(json.dumps(answer).encode(), {"content-type": "application/json"})

    def _infer(self, headers: Mapping[str, str], body: bytes) -> Encoded:
        if headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        if self.quota == 0:
            raise Refusal(429, "over the quota", {"moorage-error": "over_quota", "retry-after": "1"})
        if self.quota is not None:
            self.quota -= 1
        request = decode_request(body, headers.get(HEADER_LENGTH))
        x = request.inputs["x"]
        if request.datatypes["x"] != self.datatype:
            raise Refusal(400, f"x takes {self.datatype}")
        if not (x.any() or self.takes_zeros):
            raise Refusal(400, "no zeros")
        words = np.empty(len(x), dtype=object)
        words[:] = [f"Wörter {row}".encode() for row in range(len(x))]
        outputs = {"y": x * 2, "word": words}
        wanted = {name: outputs[name] for name in request.outputs or outputs}
        return encode_response(
            request, model_name="double", model_version="3", outputs=wanted, datatypes={"y": self.datatype}
        )

    def _metadata(self) -> dict[str, Any]:
        (x,), (y, word) = METADATA["inputs"], METADATA["outputs"]
        said = {"datatype": self.datatype}
        return {**METADATA, "inputs": [{**x, **said}], "outputs": [{**y, **said}, word]}

    def infers(self) -> list[Seen]:
        return [seen for seen in self.seen if seen.path.endswith("/infer")]


class FarServer:
    """`FarSide` on a free loopback port, in a thread; over TLS with a certificate and its key."""

    def __init__(self, side: FarSide, certificate: Path | None = None, key: Path | None = None) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        side.url = f"http{'s' if certificate else ''}://127.0.0.1:{self._socket.getsockname()[1]}"
        self._server = uvicorn.Server(
            uvicorn.Config(
                side, lifespan="off", ws="none", log_config=None, timeout_keep_alive=75,
                ssl_certfile=certificate, ssl_keyfile=key,
            )
        )  # fmt: skip
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)

    def __enter__(self) -> None:
        self._thread.start()
        wait_until(lambda: self._server.started, timeout_s=10, what="the far side")

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        self._socket.close()


OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"


class BrokenServer:
    """Reads requests and does with each, over all connections, what `script` says next; after its end it answers.

    `None` closes the connection without a byte, bytes are sent as they are, a function does what it likes with the
    socket; then the connection is closed.
    """

    def __init__(self, answer: Callable[[bytes], bytes]) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.script: deque[bytes | Callable[[socket.socket], None] | None] = deque()
        self.requests: list[bytes] = []
        self._answer = answer
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "BrokenServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream:
            while line := stream.readline():
                length = 0
                while (header := stream.readline()).strip():
                    if header.lower().startswith(b"content-length:"):
                        length = int(header.split(b":")[1])
                stream.read(length)
                self.requests.append(line)
                if self.script:
                    said = self.script.popleft()
                    if callable(said):
                        said(connection)
                    elif said is not None:
                        connection.sendall(said)
                    return
                body = self._answer(line)
                connection.sendall(OK % (len(body), body))
