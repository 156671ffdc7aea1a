"""BentoML: one service, one worker; raw bytes go to a mounted ASGI app, which its adaptive batching cannot serve."""

from collections.abc import Mapping, Sequence
from functools import partial

from workload import Model

from peers.side import Asked, Peer, Place, common

_SETTINGS = "1 worker, async API, access log off, metrics on, answer as a starlette response with orjson"


def _command(place: Place) -> Sequence[str]:
    words = [str(place.python.parent / "bentoml"), "serve", "bentoml_app:Served"]
    return [*words, "--host", "127.0.0.1", "--port", str(place.port), "--working-dir", _servers()]


def _servers() -> str:
    from peers.side import SERVERS

    return str(SERVERS)


def _environment(place: Place, *, batching: bool) -> Mapping[str, str]:
    more = {"BENTOML_HOME": str(place.scratch / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"}
    return {**common(place, batching=batching), **more}


_JSON = {
    "digits": Asked("/digits", Model.v2_json, "V2 JSON"),
    "onnx-json": Asked("/network", Model.v2_json, "V2 JSON"),
}
_RAW = {
    "binary": Asked("/raw/rowmean", Model.octets, "octets", raw=True),
    "onnx-binary": Asked("/raw/network", Model.octets, "octets", raw=True),
}

PEERS = tuple(
    Peer(
        name=name,
        pins="bentoml",
        shown=("bentoml", "uvicorn", "starlette"),
        settings=settings,
        command=_command,
        environment=partial(_environment, batching=batching),
        cases=cases,
    )
    for name, batching, cases, settings in (
        ("bentoml", False, _JSON | _RAW, _SETTINGS + "; bytes through a mounted ASGI app"),
        (
            "bentoml-batch",
            True,
            _JSON,
            "1 worker, async batchable API, access log off, metrics on, max_batch_size=64, max_latency_ms=60000",
        ),
    )
)
