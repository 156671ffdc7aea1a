"""The protocol spoken byte by byte over plain HTTP: every header and every byte of an answer is looked at."""

import gzip
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from conformance.cells import Cell, Ledger, Outcome, Packing
from conformance.models import identity_of
from conformance.tensors import answer, first_difference, request

LENGTH = "inference-header-content-length"
RAW = "plain HTTP"


@dataclass(frozen=True)
class Got:
    """An answer as it was on the wire, and its body unpacked."""

    status: int
    headers: httpx.Headers
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def pack(body: bytes, packing: Packing) -> bytes:
    if packing == "gzip":
        return gzip.compress(body, 1)
    return zlib.compress(body, 1) if packing == "deflate" else body


def unpack(body: bytes, encoding: str | None) -> bytes:
    """Raises AssertionError for an encoding that nobody asks for."""
    assert encoding in {None, "identity", "gzip", "deflate"}, f"Content-Encoding is {encoding}"
    if encoding == "gzip":
        return gzip.decompress(body)
    return zlib.decompress(body) if encoding == "deflate" else body


class Wire:
    """Plain HTTP to the router with a key; no header goes out that was not asked for."""

    def __init__(self, url: str, api_key: str) -> None:
        self.url = url
        self.api_key = api_key
        self._http = httpx.Client(base_url=url, timeout=30, trust_env=False, follow_redirects=False)
        for name in ("accept", "accept-encoding", "user-agent"):
            del self._http.headers[name]

    def close(self) -> None:
        self._http.close()

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        key: str | None = "",
    ) -> Got:
        """One request. `key` is another key than the tenant's, or None for none."""
        sent = dict(headers or {})
        if key is not None:
            sent["authorization"] = f"Bearer {key or self.api_key}"
        with self._http.stream(method, path, content=body, headers=sent) as found:
            raw = b"".join(found.iter_raw())
        return Got(found.status_code, found.headers, unpack(raw, found.headers.get("content-encoding")))

    def post(self, path: str, document: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Got:
        return self.ask("POST", path, json.dumps(document).encode(), headers)


def infer_path(model: str, version: str | None = None) -> str:
    return f"/v2/models/{model}/versions/{version}/infer" if version else f"/v2/models/{model}/infer"


def check_error(got: Got, status: int) -> None:
    """The protocol's error: exactly this status, this Content-Type and this one member."""
    assert got.status == status, f"status {got.status} instead of {status}: {got.body[:200]!r}"
    assert got.headers.get("content-type") == "application/json", f"Content-Type {got.headers.get('content-type')}"
    document = got.json()
    assert set(document) == {"error"}, f"members {sorted(document)}"
    assert isinstance(document["error"], str), "error is no text"
    assert document["error"], "error is empty"


def check_json(got: Got) -> Any:
    """A JSON answer with status 200."""
    assert got.status == 200, f"status {got.status}: {got.body[:200]!r}"
    assert got.headers.get("content-type") == "application/json", f"Content-Type {got.headers.get('content-type')}"
    return got.json()


def run_cell(wire: Wire, cell: Cell, ledger: Ledger) -> Outcome:
    """Ask one cell of the grid."""
    try:
        got, request_id = _ask(wire, cell)
        if got.status == 400 and cell.may_be_refused:
            check_error(got, 400)
            assert cell.datatype in got.json()["error"], f"refused for another reason: {got.json()['error']}"
            return ledger.note_cell(RAW, cell, "refused", got.json()["error"])
        _check(got, cell, request_id)
    except (AssertionError, httpx.HTTPError, ValueError, KeyError, TypeError, zlib.error, OSError) as error:
        return ledger.note_cell(RAW, cell, "red", f"{type(error).__name__}: {error}")
    return ledger.note_cell(RAW, cell, "green", "")


def _ask(wire: Wire, cell: Cell) -> tuple[Got, str]:
    request_id = f"ü {cell.name}"
    rest: dict[str, Any] = {"id": request_id}
    if cell.answered == "binary":
        rest["parameters"] = {"binary_data_output": True}
    elif cell.answered == "mixed":
        rest["outputs"] = [
            {"name": name, "parameters": {"binary_data": raw}} for name, raw in cell.answered_raw.items()
        ]
    body, length = request(cell.inputs(), binary=cell.sent_raw, nested=cell.versioned, **rest)
    headers = {"content-type": "application/json" if length is None else "application/octet-stream"}
    if length is not None:
        headers[LENGTH] = str(length)
    if cell.packing != "plain":
        headers |= {"content-encoding": cell.packing, "accept-encoding": cell.packing}
    path = infer_path(identity_of(cell.datatype), "1" if cell.versioned else None)
    return wire.ask("POST", path, pack(body, cell.packing), headers), request_id


def _check(got: Got, cell: Cell, request_id: str) -> None:
    assert got.status == 200, f"status {got.status}: {got.body[:300]!r}"
    length = got.headers.get(LENGTH)
    wanted = "application/json" if cell.answered == "JSON" else "application/octet-stream"
    assert got.headers.get("content-type") == wanted, f"Content-Type {got.headers.get('content-type')}"
    assert (length is None) == (cell.answered == "JSON"), f"Inference-Header-Content-Length is {length}"
    encoding = got.headers.get("content-encoding")
    assert encoding == (None if cell.packing == "plain" else cell.packing), f"Content-Encoding is {encoding}"
    found = answer(got.body, None if length is None else int(length))
    document = found.document
    assert document.get("model_name") == identity_of(cell.datatype), f"model_name {document.get('model_name')}"
    assert document.get("model_version") == "1", f"model_version {document.get('model_version')!r}"
    assert document.get("id") == request_id, f"id {document.get('id')!r}"
    assert found.binary == cell.answered_raw, f"raw bytes: {found.binary}"
    for name, sent in cell.inputs().items():
        difference = first_difference(sent, found.tensors[f"{name}_out"])
        assert not difference, f"{name}_out: {difference}"
