"""Requests that must be refused: malformed ones, and good ones of somebody who may not."""

import json
import struct
from dataclasses import dataclass
from typing import Any

import httpx
from e2e_platform import Platform, until

from conformance.raw import LENGTH, Got, Wire, check_error, infer_path

X: dict[str, Any] = {"name": "x", "datatype": "INT32", "shape": [1, 2], "data": [1, 2]}
Y: dict[str, Any] = X | {"name": "y"}
Request = tuple[bytes, dict[str, str]]


def _json(x: dict[str, Any] | None = None, **rest: Any) -> Request:
    return json.dumps({"inputs": [X if x is None else X | x, Y], **rest}).encode(), {}


def _binary(size: object, raw: bytes, length: object = None) -> Request:
    tensor = {"name": "x", "datatype": "INT32", "shape": [1, 2], "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [tensor, Y]}).encode()
    return head + raw, {LENGTH: str(len(head) if length is None else length)}


def _deep(levels: int) -> Request:
    return b'{"inputs":' + b"[" * levels + b"]" * levels + b"}", {}


EIGHT = struct.pack("<ii", 1, 2)
MALFORMED: dict[str, Request] = {
    "no body": (b"", {}),
    "no JSON": (b"{", {}),
    "a list": (b"[]", {}),
    "not UTF-8": (b'{"inputs":"\xff"}', {}),
    "no inputs": (b"{}", {}),
    "empty inputs": (b'{"inputs":[]}', {}),
    "inputs of numbers": (b'{"inputs":[1]}', {}),
    "an input missing": (json.dumps({"inputs": [X]}).encode(), {}),
    "an input twice": (json.dumps({"inputs": [X, X, Y]}).encode(), {}),
    "an unknown input": _json({"name": "z"}),
    "no name": (json.dumps({"inputs": [{k: v for k, v in X.items() if k != "name"}, Y]}).encode(), {}),
    "no data": (json.dumps({"inputs": [{k: v for k, v in X.items() if k != "data"}, Y]}).encode(), {}),
    "no shape": (json.dumps({"inputs": [{k: v for k, v in X.items() if k != "shape"}, Y]}).encode(), {}),
    "no datatype": (json.dumps({"inputs": [{k: v for k, v in X.items() if k != "datatype"}, Y]}).encode(), {}),
    "datatype FP65": _json({"datatype": "FP65"}),
    "another datatype than the model's": _json({"datatype": "BYTES", "data": ["1", "2"]}),
    "more data than the shape": _json({"data": [1, 2, 3]}),
    "less data than the shape": _json({"data": [1]}),
    "another shape than the model's": _json({"shape": [2, 1]}),
    "a negative dimension": _json({"shape": [-1, 2]}),
    "a fractional dimension": _json({"shape": [1.5, 2]}),
    "a boolean dimension": _json({"shape": [True, 2]}),
    "nine dimensions": _json({"shape": [1] * 8 + [2]}),
    "a shape of 2^80 elements": _json({"shape": [2**40, 2**40]}),
    "ragged data": _json({"shape": [2, 2], "data": [[1, 2], [3]]}),
    "data nested otherwise": _json({"shape": [2, 2], "data": [[1, 2, 3, 4]]}),
    "text in numbers": _json({"data": ["1", 2]}),
    "a fraction in integers": _json({"data": [1.5, 2]}),
    "a boolean in integers": _json({"data": [True, 2]}),
    "null in integers": _json({"data": [None, 2]}),
    "an integer out of range": _json({"data": [2**31, 2]}),
    "an integer of 2^70": _json({"data": [2**70, 2]}),
    "NaN as JSON": (b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[NaN]}]}', {}),
    "an id that is no text": _json(id=7),
    "parameters that are no object": _json(parameters=[]),
    "outputs that are no list": _json(outputs="x_out"),
    "65 tensors": (json.dumps({"inputs": [X | {"name": f"x{at}"} for at in range(65)]}).encode(), {}),
    "JSON 17 deep": _deep(17),
    "JSON 100,000 deep": _deep(100_000),
    "a length header that is no number": _binary(8, EIGHT, "eight"),
    "a length header over the body": _binary(8, EIGHT, 10**6),
    "a negative length header": _binary(8, EIGHT, -1),
    "a length header within the JSON": _binary(8, EIGHT, 10),
    "binary_data_size under the shape": _binary(4, EIGHT[:4]),
    "binary_data_size over the body": _binary(16, EIGHT),
    "a negative binary_data_size": _binary(-8, EIGHT),
    "a fractional binary_data_size": _binary(8.5, EIGHT),
    "bytes left over": _binary(8, EIGHT * 2),
    "data and binary_data_size": _json({"parameters": {"binary_data_size": 8}}),
    "gzip that is none": (b"{}", {"content-encoding": "gzip"}),
    "deflate that is none": (b"{}", {"content-encoding": "deflate"}),
    "an unknown Content-Encoding": (b"{}", {"content-encoding": "br"}),
}


@dataclass(frozen=True)
class Strict:
    """A key without the scope for what is asked, and the tenant's limits reached."""

    platform: Platform
    wire: Wire
    no_scope: str
    model: str

    def too_large(self) -> None:
        """One byte more than the limit of 16 MiB that tenants begin with."""
        check_error(self.wire.ask("POST", infer_path(self.model), bytes(16 * 1024 * 1024 + 1)), 413)

    def over_quota(self) -> None:
        """Ask with a quota of one request a second; the tenant has its own quota back at the end."""
        before = self._limits("GET", "").json()["limits"]
        wanted = {name: before[name] for name in ("requests_per_s", "burst")}
        try:
            self._limits("PUT", "/limits", {"requests_per_s": 1, "burst": 1})
            until(lambda: self._asked().status == 429, 10, "429")
            got = self._asked()
            check_error(got, 429)
            assert int(got.headers["retry-after"]) >= 1, "429 without Retry-After"
        finally:
            self._limits("PUT", "/limits", wanted)
            until(lambda: all(self._asked().status != 429 for _ in range(20)), 10, "the quota")

    def _asked(self) -> Got:
        return self.wire.ask("POST", infer_path(self.model), b"{}")

    def _limits(self, method: str, path: str, body: object = None) -> httpx.Response:
        url = f"{self.platform.info['registry']}/v1/tenants/{self.platform.info['tenant']}{path}"
        headers = {"authorization": f"Bearer {self.platform.info['admin_key']}"}
        return httpx.request(method, url, json=body, headers=headers, trust_env=False).raise_for_status()


def strict(platform: Platform, wire: Wire, model: str) -> Strict:
    """Make the key and wait until the router knows it."""
    with platform.client() as client:
        no_scope = client.registry.create_key(["infer:other-*"])["key"]
    until(lambda: wire.ask("GET", "/v2/models", key=no_scope).status == 200, 10, "the key")
    return Strict(platform, wire, no_scope, model)
