"""LitServe: one worker a model, the request's bytes decoded in the worker."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from workload import Body, Model

from peers.side import Asked, Peer, Place, common, server

_SETTINGS = (
    "1 API server, 1 worker a model, fast_queue (ZeroMQ), access log off, body taken as bytes and decoded with orjson "
    "in the worker"
)
_APIS = "digits,network,rowmean-raw,network-raw"


def _json_as_bytes(model: Model) -> list[Body]:
    """The same JSON under a type that FastAPI does not parse, so that the worker can, with orjson."""
    return [replace(b, headers={"content-type": "application/octet-stream"}) for b in model.v2_json()]


def _environment(place: Place, *, batching: bool) -> Mapping[str, str]:
    return {**common(place, batching=batching), "BENCH_ONLY": _APIS}


_CASES = {
    "digits": Asked("/digits", _json_as_bytes, "V2 JSON"),
    "binary": Asked("/rowmean-raw", Model.octets, "octets", raw=True),
    "onnx-json": Asked("/network", _json_as_bytes, "V2 JSON"),
    "onnx-binary": Asked("/network-raw", Model.octets, "octets", raw=True),
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
    )
    for name, batching, more in (
        ("litserve", False, ""),
        ("litserve-batch", True, "; max_batch_size=64, batch_timeout=0.005"),
    )
)
