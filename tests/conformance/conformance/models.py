"""The models that the clients ask: one identity a datatype, one of all datatypes, and digits in two versions."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from conformance.tensors import COLUMNS, DATATYPES
from moorage_sdk.client import Client

ONNX_TYPES = {
    "BOOL": TensorProto.BOOL, "UINT8": TensorProto.UINT8, "UINT16": TensorProto.UINT16, "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64, "INT8": TensorProto.INT8, "INT16": TensorProto.INT16, "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64, "FP16": TensorProto.FLOAT16, "FP32": TensorProto.FLOAT, "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING, "BF16": TensorProto.BFLOAT16,
}  # fmt: skip
WIDE = "identity-of-all"
TOGETHER = tuple(datatype for datatype in DATATYPES if datatype != "BF16")
"""Of one graph: onnxruntime takes no strings beside BF16."""
DIGITS = "digits"


def identity_of(datatype: str) -> str:
    """Name of the model that takes `x` and `y` of a datatype and answers `x_out` and `y_out`."""
    return f"identity-{datatype.lower()}"


def identity(tensors: Sequence[tuple[str, str]]) -> Any:
    """A graph that answers each (name, datatype) under `<name>_out`."""

    def value(name: str, datatype: str) -> Any:
        return helper.make_tensor_value_info(name, ONNX_TYPES[datatype], ["rows", COLUMNS])

    graph = helper.make_graph(
        [helper.make_node("Identity", [name], [f"{name}_out"]) for name, _ in tensors],
        "identity",
        [value(name, datatype) for name, datatype in tensors],
        [value(f"{name}_out", datatype) for name, datatype in tensors],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def digits(shift: int) -> Any:
    """A classifier of digits that answers each digit plus `shift`, so that versions can be told apart."""
    pictures, labels = load_digits(return_X_y=True)
    return LogisticRegression(C=0.01, max_iter=50).fit(pictures[:600] / 16, labels[:600] + shift)


def deploy_all(client: Client) -> None:
    """Push everything, then let every host start at once and wait for the last."""
    graphs = {identity_of(d): identity([("x", d), ("y", d)]) for d in DATATYPES}
    graphs[WIDE] = identity([(d.lower(), d) for d in TOGETHER])
    versions = [client.push(graph, name=name) for name, graph in graphs.items()]
    pictures = load_digits().data[:8] / 16
    versions += [client.push(digits(shift), name=DIGITS, example=pictures) for shift in (0, 100)]
    for version in versions:
        client.deploy(version, cpu=0.05, memory="256Mi", wait=False)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda v: client.wait_until_ready(v.model, v.version, timeout_s=180), versions))


def picture() -> np.ndarray:
    """One digit, 64 pixels between 0 and 1."""
    found: np.ndarray = load_digits().data[:1] / 16
    return found
