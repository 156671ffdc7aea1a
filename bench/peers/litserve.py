"""LitServe: one worker a model, the request's bytes decoded in the worker."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from workload import Body, Model

from peers.side import MODEL_OF, Asked, Peer, Place, common, server

_SETTINGS = (
    "1 API server, 1 worker, 1 model at once as idle workers poll, fast_queue (ZeroMQ), access log off, JSON taken "
    "as bytes and decoded with orjson in the worker, bytes as base64 in JSON"
)


def _json_as_bytes(model: Model) -> list[Body]:
    """The same JSON under a type that FastAPI does not parse, so that the worker can, with orjson."""
    return [replace(b, headers={"content-type": "application/octet-stream"}) for b in model.v2_json()]


def _environment(place: Place, *, batching: bool) -> Mapping[str, str]:
    is_base64 = place.case in ("binary", "onnx-binary")
    chosen = {"BENCH_MODEL": MODEL_OF[place.case], "BENCH_BASE64": "1" if is_base64 else "0"}
    return {**common(place, batching=batching), **chosen}


_CASES = {
    "digits": Asked("/infer", _json_as_bytes, "V2 JSON"),
    "binary": Asked("/infer", Model.v2_base64, "V2 base64"),
    "onnx-json": Asked("/infer", _json_as_bytes, "V2 JSON"),
    "onnx-binary": Asked("/infer", Model.v2_base64, "V2 base64"),
}

PEERS = tuple(
    Peer(
        name=name,
        pins="litserve",
        shown=("litserve", "uvicorn", "fastapi"),
        settings=_SETTINGS + more,
        command=server("litserve_app.py"),
        environment=partial(_environment, batching=batching),
        cases=_CASES,
        alone=True,
    )
    for name, batching, more in (
        ("litserve", False, ""),
        ("litserve-batch", True, "; max_batch_size=32, batch_timeout=0.01"),
    )
)
