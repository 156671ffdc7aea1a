"""The other side of `overhead.py`: the least a user would write around the same model, on uvicorn.

Raw ASGI, orjson, numpy, the estimator called in the event loop. No keys, quotas, routing, metrics or metering.
"""

import sys
from typing import Any

import numpy as np
import orjson
import skops.io
import uvicorn

Scope = dict[str, Any]


class BareApp:
    """Answers every POST as a V2 inference request with one input, FP64 `[rows, features]`."""

    def __init__(self, path: str) -> None:
        self.model = skops.io.load(path)

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        request = orjson.loads(body)
        tensor = request["inputs"][0]
        rows = np.asarray(tensor["data"], dtype=np.float64).reshape(tensor["shape"])
        labels, shares = self.model.predict(rows), self.model.predict_proba(rows)
        outputs = [
            {"name": "predict", "datatype": "INT64", "shape": labels.shape, "data": labels},
            {"name": "predict_proba", "datatype": "FP64", "shape": shares.shape, "data": shares.ravel()},
        ]
        answer = orjson.dumps({"model_name": "bare", "outputs": outputs}, option=orjson.OPT_SERIALIZE_NUMPY)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


if __name__ == "__main__":
    uvicorn.run(BareApp(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]), log_level="error", lifespan="off")
