"""MLServer: a custom runtime around each model, its own codecs for what comes and goes."""

import numpy as np
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from served import MAKERS


class Served(MLModel):
    async def load(self) -> bool:
        self.served = MAKERS[self.name]()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        tensor = payload.inputs[0]
        if tensor.datatype == "BYTES":
            rows = np.stack([np.frombuffer(b, np.float32) for b in Base64Codec.decode_input(tensor)])
        else:
            rows = NumpyCodec.decode_input(tensor)
        outputs = self.served(rows)
        return InferenceResponse(
            model_name=self.name,
            outputs=[NumpyCodec.encode_output(name, value) for name, value in outputs.items()],
        )
