"""A model that is bound by a processor for as long as its request says, one request at a time."""

import hashlib
import json
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from moorage_sdk.registry_api import RegistryApi

WIDTH = 192
SIGNATURE = {
    "inputs": [{"name": "loops", "datatype": "INT64", "shape": [1]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, WIDTH]}],
    "batchable": False,
}


def content() -> bytes:
    """ONNX: y = tanh(y W) as often as `loops` says."""
    random = np.random.default_rng(7)
    matrix = (random.normal(size=(WIDTH, WIDTH)) / np.sqrt(WIDTH)).astype(np.float32)
    row = random.normal(size=(1, WIDTH)).astype(np.float32)
    shape = [1, WIDTH]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("MatMul", ["was", "matrix"], ["product"]),
            helper.make_node("Tanh", ["product"], ["becomes"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("was", TensorProto.FLOAT, shape),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("becomes", TensorProto.FLOAT, shape),
        ],
    )
    graph = helper.make_graph(
        [
            helper.make_node("Squeeze", ["loops"], ["times"]),
            helper.make_node("Loop", ["times", "", "row"], ["y"], body=body),
        ],
        "work",
        [helper.make_tensor_value_info("loops", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(matrix, "matrix"), numpy_helper.from_array(row, "row")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(made.SerializeToString())


def request(loops: int) -> dict[str, Any]:
    """A V2 inference request."""
    return {"inputs": [{"name": "loops", "datatype": "INT64", "shape": [1], "data": [loops]}]}


def deploy(registry: RegistryApi, model: bytes) -> None:
    """Push it as `work` and have one replica of it."""
    answer = _answer(model)
    outputs = [{"name": "y", "datatype": "FP32", "shape": [1, WIDTH], "data": answer}]
    examples = json.dumps({"examples": [{"request": request(3), "outputs": outputs}]}).encode()
    digests = []
    for one in (model, examples):
        digests.append(f"sha256:{hashlib.sha256(one).hexdigest()}")
        registry.upload_artifact(digests[-1], one)
    body = {"artifact_digest": digests[0], "examples_digest": digests[1], "format": "onnx", "signature": SIGNATURE}
    version = registry.create_version("work", body).version
    wanted = {
        "version": version,
        "isolation": "dedicated",
        "scaling": {"min": 1, "max": 1},
        "resources": {"cpu_milli": 200, "host_mem_mib": 256},
    }
    registry.put_deployment("work", {"versions": [wanted]})


def _answer(model: bytes) -> list[float]:
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    found = session.run(None, {"loops": np.array([3], dtype=np.int64)})[0]
    return [float(one) for one in np.asarray(found).ravel()]
