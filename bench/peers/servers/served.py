"""The models, as every peer's server holds them: the least code around scikit-learn and onnxruntime."""

import os
from pathlib import Path

import joblib
import numpy as np
import onnxruntime as ort
import orjson

MODELS = Path(os.environ.get("BENCH_MODELS", "."))
BATCHING = os.environ.get("BENCH_BATCHING") == "1"
PORT = int(os.environ.get("BENCH_PORT", "0"))


class Digits:
    """`[n, 64]` FP64 to labels and probabilities, by both methods."""

    dtype = np.float64

    def __init__(self):
        self.estimator = joblib.load(MODELS / "digits.joblib")

    def __call__(self, rows):
        return {"predict": self.estimator.predict(rows), "predict_proba": self.estimator.predict_proba(rows)}


class Graph:
    """An ONNX graph of one input and one output, with the session options that Moorage uses."""

    dtype = np.float32

    def __init__(self, name):
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = ort.InferenceSession(str(MODELS / f"{name}.onnx"), options, providers=["CPUExecutionProvider"])
        self.output = self.session.get_outputs()[0].name
        self.width = self.session.get_inputs()[0].shape[1]

    def __call__(self, rows):
        return {self.output: self.session.run([self.output], {"input": rows})[0]}


MAKERS = {"digits": Digits, "rowmean": lambda: Graph("rowmean"), "network": lambda: Graph("network")}

_NAMES = {"float64": "FP64", "float32": "FP32", "int64": "INT64"}


def rows_of(document, dtype):
    """The one input of a V2 JSON request."""
    tensor = document["inputs"][0]
    return np.asarray(tensor["data"], dtype=dtype).reshape(tensor["shape"])


def document(name, outputs):
    """A V2 answer with numpy arrays inside, for orjson."""
    tensors = []
    for key, value in outputs.items():
        data = np.ascontiguousarray(value).ravel()
        tensors.append({"name": key, "datatype": _NAMES[data.dtype.name], "shape": value.shape, "data": data})
    return {"model_name": name, "outputs": tensors}


def v2_json(name, outputs):
    """A V2 answer's body."""
    return orjson.dumps(document(name, outputs), option=orjson.OPT_SERIALIZE_NUMPY)


def octets(outputs):
    """The one output's bytes."""
    return next(iter(outputs.values())).tobytes()


def in_rows(outputs, count):
    """A batch's outputs as one mapping a row."""
    return [{key: value[i : i + 1] for key, value in outputs.items()} for i in range(count)]
