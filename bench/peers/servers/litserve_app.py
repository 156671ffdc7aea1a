"""LitServe: one API and one worker a model; the body goes to the worker as it came and is decoded there."""

import base64
import os
from typing import Annotated

import litserve as ls
import numpy as np
import orjson
from fastapi import Body, Response
from served import BATCHING, MAKERS, PORT, in_rows, rows_of, v2_json

MAX_BATCH = int(os.environ.get("BENCH_MAX_BATCH", "32"))
WAIT_S = float(os.environ.get("BENCH_WAIT_S", "0.01"))
FAST_QUEUE = os.environ.get("BENCH_FAST_QUEUE", "1") == "1"


class Served(ls.LitAPI):
    """V2 JSON, which reaches the worker as bytes."""

    def __init__(self, name, path, **options):
        super().__init__(api_path=path, **options)
        self.name = name

    def setup(self, device):
        self.served = MAKERS[self.name]()

    def decode_request(self, request: Annotated[bytes, Body()]):
        return rows_of(orjson.loads(request), self.served.dtype)

    def batch(self, inputs):
        return np.concatenate(inputs)

    def predict(self, rows):
        return self.served(rows)

    def unbatch(self, outputs):
        return in_rows(outputs, len(next(iter(outputs.values()))))

    def encode_response(self, outputs) -> Response:
        return Response(v2_json(self.name, outputs), media_type="application/json")


class ServedBase64(Served):
    """JSON with base64, which LitServe parses itself: what it takes as bytes it formats for a log line, 14 ms a MB."""

    def decode_request(self, request):
        raw = base64.b64decode(request["inputs"][0]["data"][0])
        return np.frombuffer(raw, self.served.dtype).reshape(1, -1)


if __name__ == "__main__":
    options = {"max_batch_size": MAX_BATCH, "batch_timeout": WAIT_S} if BATCHING else {}
    kind = ServedBase64 if os.environ["BENCH_BASE64"] == "1" else Served
    api = kind(os.environ["BENCH_MODEL"], "/infer", **options)
    server = ls.LitServer(api, accelerator="cpu", devices=1, workers_per_device=1, timeout=60, fast_queue=FAST_QUEUE)
    server.run(
        host="127.0.0.1", port=PORT, num_api_servers=1, log_level="warning", generate_client_file=False,
        access_log=False,
    )  # fmt: skip
