"""BentoML: one service and one worker that holds the models; `batchable` APIs with BENCH_BATCHING=1.

A batchable API takes one list or array, so the V2 body's `inputs` is that list: a request's one tensor is one row.
"""

import os
from typing import Any

import bentoml
import numpy as np
from served import BATCHING, MAKERS, document, in_rows, octets, v2_json
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

MAX_BATCH = int(os.environ.get("BENCH_MAX_BATCH", "64"))
LATENCY_MS = int(os.environ.get("BENCH_LATENCY_MS", "60000"))
OPTIONS = {"batchable": True, "max_batch_size": MAX_BATCH, "max_latency_ms": LATENCY_MS} if BATCHING else {}

MODELS = {name: make() for name, make in MAKERS.items()}


def one(name, inputs):
    model = MODELS[name]
    tensor = inputs[0]
    rows = np.asarray(tensor["data"], dtype=model.dtype).reshape(tensor["shape"])
    return Response(v2_json(name, model(rows)), media_type="application/json")


def many(name, inputs):
    model = MODELS[name]
    rows = np.concatenate([np.asarray(t["data"], dtype=model.dtype).reshape(t["shape"]) for t in inputs])
    answers = []
    for outputs in in_rows(model(rows), len(inputs)):
        answer = document(name, outputs)
        for tensor in answer["outputs"]:
            tensor["data"] = tensor["data"].tolist()
        answers.append(answer)
    return answers


def raw_app():
    async def infer(request):
        model = MODELS[request.path_params["name"]]
        rows = np.frombuffer(await request.body(), model.dtype).reshape(1, -1)
        return Response(octets(model(rows)), media_type="application/octet-stream")

    return Starlette(routes=[Route("/{name}", infer, methods=["POST"])])


@bentoml.asgi_app(raw_app(), path="/raw")
@bentoml.service(workers=1, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Served:
    if BATCHING:

        @bentoml.api(route="/digits", **OPTIONS)
        async def digits(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
            return many("digits", inputs)

        @bentoml.api(route="/network", **OPTIONS)
        async def network(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
            return many("network", inputs)

    else:

        @bentoml.api(route="/digits")
        async def digits(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
            return one("digits", inputs)

        @bentoml.api(route="/network")
        async def network(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
            return one("network", inputs)
