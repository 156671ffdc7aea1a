"""KServe's Python server. Its batcher is a sidecar in Go, not part of this package: there is no batching here."""

from functools import partial

from workload import Model

from peers.side import Asked, Peer, common, server

PEERS = (
    Peer(
        name="kserve",
        pins="kserve",
        shown=("kserve", "uvicorn", "fastapi"),
        settings="uvloop, 1 worker, gRPC off, latency log off, metrics on, custom predictor; no batcher in the package",
        command=server("kserve_app.py"),
        environment=partial(common, batching=False),
        cases={
            "digits": Asked("/v2/models/digits/infer", Model.v2_json, "V2 JSON"),
            "binary": Asked("/v2/models/rowmean/infer", Model.v2_binary, "V2 binary"),
            "onnx-json": Asked("/v2/models/network/infer", Model.v2_json, "V2 JSON"),
            "onnx-binary": Asked("/v2/models/network/infer", Model.v2_binary, "V2 binary"),
        },
    ),
)
