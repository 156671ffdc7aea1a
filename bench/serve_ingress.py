"""The pipeline of `examples/pipeline` behind Ray Serve's own HTTP proxy, for `bench/pipeline.py` to compare with.

    python bench/serve_ingress.py PROJECT PORT

The ingress is the example's own, which here reads V2 JSON from the request and writes it back: as many processes and
calls as the same pipeline has behind Moorage's router and host.
"""

import os
import signal
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import orjson
import ray
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import Response

_NAMES = {"f": "FP64", "i": "INT64"}


def main(project: Path, port: int) -> None:
    sys.path.insert(0, str(project))
    import pipeline

    @serve.deployment(**pipeline.SMALL, logging_config={"enable_access_log": False})
    class Http(pipeline.Digits.func_or_class):  # type: ignore[misc]
        def __init__(self, features: DeploymentHandle, classifier: DeploymentHandle, novelty: DeploymentHandle) -> None:
            super().__init__(features, classifier, novelty)

        async def __call__(self, request: Request) -> Response:
            asked = orjson.loads(await request.body())
            inputs = {t["name"]: np.asarray(t["data"], "f8").reshape(t["shape"]) for t in asked["inputs"]}
            answer = await super().__call__(inputs)
            outputs = [
                {"name": name, "datatype": _NAMES[a.dtype.kind], "shape": a.shape, "data": a.ravel().tolist()}
                for name, a in answer.items()
            ]
            return Response(orjson.dumps({"model_name": "pipeline", "outputs": outputs}), media_type="application/json")

    quiet = {"logging_config": {"enable_access_log": False}}
    parts = [one.options(**quiet).bind() for one in (pipeline.Features, pipeline.Classifier, pipeline.Novelty)]
    with tempfile.TemporaryDirectory(prefix="mb-", dir="/tmp", ignore_cleanup_errors=True) as scratch:
        ray.init(
            address="local", num_cpus=4, include_dashboard=False, _temp_dir=scratch, configure_logging=False,
            object_store_memory=100_000_000, runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}},
        )  # fmt: skip
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(Http.bind(*parts), route_prefix="/")
        print("ready", flush=True)
        over = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: over.set())
        over.wait()
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
