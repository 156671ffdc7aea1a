"""KServe's Python server. Its batcher is a sidecar in Go, not part of this package: there is no batching here."""

from dataclasses import replace
from functools import partial

from workload import Body, Model

from peers.side import Asked, Peer, common, server


def _octets(model: Model) -> list[Body]:
    """Bytes under a type that the server hands to the predictor as they are."""
    return [replace(b, headers={"content-type": "application/x-float32"}) for b in model.octets()]


PEERS = (
    Peer(
        name="kserve",
        pins="kserve",
        shown=("kserve", "uvicorn", "fastapi"),
        settings="uvloop, 1 worker, gRPC off, access, trace and latency logs off, metrics on, custom predictor; no "
        "batcher in the package; bytes to the V1 endpoint, since its V2 binary extension makes Python lists (100 ms)",
        command=server("kserve_app.py"),
        environment=partial(common, batching=False),
        cases={
            "digits": Asked("/v2/models/digits/infer", Model.v2_json, "V2 JSON"),
            "binary": Asked("/v1/models/rowmean:predict", _octets, "octets", raw=True),
            "onnx-json": Asked("/v2/models/network/infer", Model.v2_json, "V2 JSON"),
            "onnx-binary": Asked("/v1/models/network:predict", _octets, "octets", raw=True),
        },
    ),
)
