"""KServe's Python server: a custom predictor around each model."""

import copy
import uuid

import kserve
import numpy as np
from kserve import InferOutput, InferResponse
from kserve.logging import KSERVE_LOG_CONFIG, configure_logging
from served import MAKERS, PORT, octets

_NAMES = {"float64": "FP64", "float32": "FP32", "int64": "INT64"}


class Served(kserve.Model):
    def __init__(self, name):
        super().__init__(name)
        self.served = MAKERS[name]()
        self.ready = True

    def predict(self, payload, headers=None):
        if isinstance(payload, bytes):  # of the V1 endpoint
            return octets(self.served(np.frombuffer(payload, self.served.dtype).reshape(1, -1)))
        binary = payload.use_binary_outputs
        outputs = []
        for name, value in self.served(payload.inputs[0].as_numpy()).items():
            output = InferOutput(name, list(value.shape), _NAMES[value.dtype.name])
            output.set_data_from_numpy(value, binary_data=binary)
            outputs.append(output)
        return InferResponse(payload.id or str(uuid.uuid4()), self.name, outputs)


def quiet():
    """KServe's own log configuration without a line a request."""
    config = copy.deepcopy(KSERVE_LOG_CONFIG)
    config["loggers"]["kserve.trace"]["level"] = "WARNING"
    config["loggers"]["uvicorn.access"]["handlers"] = []
    configure_logging(config)


if __name__ == "__main__":
    quiet()
    server = kserve.ModelServer(
        http_port=PORT, workers=1, enable_grpc=False, enable_latency_logging=False, event_loop="uvloop"
    )
    server.start([Served(name) for name in MAKERS])
