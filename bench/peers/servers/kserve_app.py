"""KServe's Python server: a custom predictor around each model."""

import uuid

import kserve
from kserve import InferOutput, InferRequest, InferResponse
from served import MAKERS, PORT

_NAMES = {"float64": "FP64", "float32": "FP32", "int64": "INT64"}


class Served(kserve.Model):
    def __init__(self, name):
        super().__init__(name)
        self.served = MAKERS[name]()
        self.ready = True

    def predict(self, payload: InferRequest, headers=None) -> InferResponse:
        binary = payload.use_binary_outputs
        outputs = []
        for name, value in self.served(payload.inputs[0].as_numpy()).items():
            output = InferOutput(name, list(value.shape), _NAMES[value.dtype.name])
            output.set_data_from_numpy(value, binary_data=binary)
            outputs.append(output)
        return InferResponse(payload.id or str(uuid.uuid4()), self.name, outputs)


if __name__ == "__main__":
    server = kserve.ModelServer(
        http_port=PORT, workers=1, enable_grpc=False, enable_latency_logging=False, event_loop="uvloop"
    )
    server.start([Served(name) for name in MAKERS])
