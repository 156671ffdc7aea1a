"""Ray Serve: one replica that holds the models; `@serve.batch` with BENCH_BATCHING=1."""

import os
import signal
import threading

import numpy as np
import orjson
import ray
from ray import serve
from served import BATCHING, MAKERS, PORT, in_rows, octets, rows_of, v2_json
from starlette.requests import Request
from starlette.responses import Response

MAX_BATCH = int(os.environ.get("BENCH_MAX_BATCH", "32"))
WAIT_S = float(os.environ.get("BENCH_WAIT_S", "0.01"))


@serve.deployment(
    num_replicas=1,
    max_ongoing_requests=512,
    ray_actor_options={"num_cpus": 1},
    logging_config={"enable_access_log": False},
)
class Replica:
    def __init__(self):
        self.models = {name: make() for name, make in MAKERS.items()}

    async def __call__(self, request: Request) -> Response:
        name = request.url.path.rsplit("/", 1)[-1]
        model = self.models[name]
        body = await request.body()
        raw = request.headers["content-type"] == "application/octet-stream"
        rows = np.frombuffer(body, model.dtype).reshape(1, -1) if raw else rows_of(orjson.loads(body), model.dtype)
        outputs = await getattr(self, name)(rows) if BATCHING else model(rows)
        if raw:
            return Response(octets(outputs), media_type="application/octet-stream")
        return Response(v2_json(name, outputs), media_type="application/json")

    def together(self, name, batch):
        return in_rows(self.models[name](np.concatenate(batch)), len(batch))

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=WAIT_S)
    async def digits(self, batch):
        return self.together("digits", batch)

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=WAIT_S)
    async def rowmean(self, batch):
        return self.together("rowmean", batch)

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=WAIT_S)
    async def network(self, batch):
        return self.together("network", batch)


if __name__ == "__main__":
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        _temp_dir=os.environ["BENCH_RAY_DIR"],
        configure_logging=False,
        object_store_memory=200_000_000,
    )
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    serve.run(Replica.bind(), route_prefix="/")
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    stop.wait()
    serve.shutdown()
    ray.shutdown()
