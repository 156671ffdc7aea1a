"""MLServer: models in its main process, with and without adaptive batching."""

import json
from collections.abc import Mapping, Sequence
from functools import partial

from workload import Model

from peers.side import MODEL_OF, Asked, Peer, Place, common

_SETTINGS = (
    "uvloop, orjson, debug off (no access log), gzip off, metrics on, parallel_workers 0 (model in the main process), "
    "custom runtime with its NumpyCodec; bytes as base64 in JSON, since its REST has no binary extension"
)
_BATCH = {"max_batch_size": 32, "max_batch_time": 0.005}


def _command(place: Place, *, batching: bool) -> Sequence[str]:
    settings = {
        "debug": False,
        "host": "127.0.0.1",
        "http_port": place.ports[0],
        "grpc_port": place.ports[1],
        "metrics_port": place.ports[2],
        "parallel_workers": 0,
        "gzip_enabled": False,
    }
    (place.scratch / "settings.json").write_text(json.dumps(settings))
    for name in set(MODEL_OF.values()):
        folder = place.scratch / name
        folder.mkdir(exist_ok=True)
        model = {"name": name, "implementation": "mlserver_models.Served", **(_BATCH if batching else {})}
        (folder / "model-settings.json").write_text(json.dumps(model))
    return [str(place.python.parent / "mlserver"), "start", str(place.scratch)]


def _environment(place: Place, *, batching: bool) -> Mapping[str, str]:
    return common(place, batching=batching)


_CASES = {
    "digits": Asked("/v2/models/digits/infer", Model.v2_json, "V2 JSON"),
    "binary": Asked("/v2/models/rowmean/infer", Model.v2_base64, "V2 base64"),
    "onnx-json": Asked("/v2/models/network/infer", Model.v2_json, "V2 JSON"),
    "onnx-binary": Asked("/v2/models/network/infer", Model.v2_base64, "V2 base64"),
}


PEERS = tuple(
    Peer(
        name=name,
        pins="mlserver",
        shown=("mlserver", "uvicorn", "fastapi"),
        settings=_SETTINGS + more,
        command=partial(_command, batching=batching),
        environment=partial(_environment, batching=batching),
        cases=_CASES,
    )
    for name, batching, more in (
        ("mlserver", False, ""),
        ("mlserver-batch", True, f"; adaptive batching {_BATCH}"),
    )
)
