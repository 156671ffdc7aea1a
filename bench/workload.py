"""The models that every side serves, the requests it is sent and what it must answer.

Three models: `digits`, scikit-learn's logistic regression on its digits; `rowmean`, an ONNX graph that does next to
nothing with 1 MB of input; `network`, a small convolutional network, some
1-2 ms a row on one core. Requests differ from each other,
so that an answer given to the wrong caller is seen.
"""

import base64
import itertools
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import joblib  # type: ignore[import-untyped]
import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

Array = NDArray[Any]

WIDE = 262_144
"""float32 values in 1 MB."""
_SIDE = 28
_CHANNELS = (1, 32, 128, 64)
_DATATYPES = {"float64": "FP64", "float32": "FP32", "int64": "INT64"}


@dataclass(frozen=True)
class Body:
    """A request's body, in base64 since it travels to the load in JSON, and the headers it needs."""

    data: str
    headers: dict[str, str]


@dataclass(frozen=True)
class Model:
    """A model's file, some requests of one row each, and their answers by output name."""

    name: str
    path: Path
    input_name: str
    rows: Array
    outputs: list[dict[str, Array]]

    def expected(self, *, raw: bool = False) -> list[dict[str, list[float]]]:
        """Answers as `answers.holds` takes them; `raw` where the one output comes as bare numbers."""
        return [
            {("" if raw else name): np.asarray(value, np.float64).ravel().tolist() for name, value in one.items()}
            for one in self.outputs
        ]

    @cached_property
    def _tensors(self) -> list[dict[str, Any]]:
        datatype = _DATATYPES[str(self.rows.dtype)]
        return [{"name": self.input_name, "datatype": datatype, "shape": [1, len(row)]} for row in self.rows]

    def v2_json(self) -> list[Body]:
        """Open Inference Protocol V2, JSON."""
        pairs = zip(self._tensors, self.rows, strict=True)
        documents = [{"inputs": [tensor | {"data": row.tolist()}]} for tensor, row in pairs]
        return [_body(json.dumps(d).encode(), {"content-type": "application/json"}) for d in documents]

    def v2_binary(self) -> list[Body]:
        """V2 with the binary extension both ways."""
        out = []
        for tensor, row in zip(self._tensors, self.rows, strict=True):
            sized = tensor | {"parameters": {"binary_data_size": row.nbytes}}
            head = json.dumps({"inputs": [sized], "parameters": {"binary_data_output": True}}).encode()
            headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(head))}
            out.append(_body(head + row.tobytes(), headers))
        return out

    def v2_base64(self) -> list[Body]:
        """V2 in JSON with the row's bytes as one base64 element: MLServer's way, which has no binary extension."""
        out = []
        for row in self.rows:
            text = base64.b64encode(row.tobytes()).decode()
            parameters = {"content_type": "base64"}
            tensor = {"name": self.input_name, "datatype": "BYTES", "shape": [1, 1], "parameters": parameters}
            document = {"inputs": [tensor | {"data": [text]}]}
            out.append(_body(json.dumps(document).encode(), {"content-type": "application/json"}))
        return out

    def octets(self) -> list[Body]:
        """The row's bytes alone."""
        return [_body(row.tobytes(), {"content-type": "application/octet-stream"}) for row in self.rows]


def _body(data: bytes, headers: dict[str, str]) -> Body:
    return Body(base64.b64encode(data).decode(), headers)


def make(directory: Path) -> dict[str, Model]:
    """Train and write all models into `directory`; the same every time."""
    return {m.name: m for m in (_digits(directory), _rowmean(directory), _network(directory))}


def _digits(directory: Path) -> Model:
    x, y = load_digits(return_X_y=True)
    estimator = LogisticRegression(max_iter=300).fit(x / 16, y)
    path = directory / "digits.joblib"
    joblib.dump(estimator, path)
    rows = x[:32] / 16
    labels, shares = estimator.predict(rows), estimator.predict_proba(rows)
    outputs = [{"predict": labels[i : i + 1], "predict_proba": shares[i : i + 1]} for i in range(len(rows))]
    return Model("digits", path, "input", rows, outputs)


def _rowmean(directory: Path) -> Model:
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["rows", WIDE])
    wanted = helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["rows", 1])
    axes = numpy_helper.from_array(np.array([1], dtype=np.int64), "axes")
    node = helper.make_node("ReduceMean", ["input", "axes"], ["mean"], keepdims=1)
    graph = helper.make_graph([node], "rowmean", [given], [wanted], [axes])
    random = np.random.default_rng(7)
    rows = np.stack([random.random(WIDE, dtype=np.float32) + k for k in range(4)])
    return _onnx(directory, "rowmean", graph, rows)


def _network(directory: Path) -> Model:
    """Three convolutions on 28 x 28 pixels and a dense layer."""
    random = np.random.default_rng(8)
    weights: list[Any] = [numpy_helper.from_array(np.array([-1, 1, _SIDE, _SIDE], dtype=np.int64), "image")]
    nodes = [helper.make_node("Reshape", ["input", "image"], ["a0"])]
    for i, (before, after) in enumerate(itertools.pairwise(_CHANNELS)):
        kernel = random.normal(0, (2 / (9 * before)) ** 0.5, (after, before, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"w{i}"))
        nodes.append(helper.make_node("Conv", [f"a{i}", f"w{i}"], [f"c{i}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"a{i + 1}"]))
    last = len(_CHANNELS) - 1
    dense = random.normal(0, 0.05, (_CHANNELS[-1], 10)).astype(np.float32)
    weights.append(numpy_helper.from_array(dense, "dense"))
    nodes.append(helper.make_node("GlobalAveragePool", [f"a{last}"], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
    nodes.append(helper.make_node("MatMul", ["flat", "dense"], ["scores"]))
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["rows", _SIDE * _SIDE])
    wanted = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["rows", 10])
    graph = helper.make_graph(nodes, "network", [given], [wanted], weights)
    return _onnx(
        directory,
        "network",
        graph,
        random.random((16, _SIDE * _SIDE), dtype=np.float32) * np.arange(1, 17, dtype=np.float32)[:, None],
    )


def _onnx(directory: Path, name: str, graph: Any, rows: Array) -> Model:
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path = directory / f"{name}.onnx"
    onnx.save(proto, str(path))
    session = ort.InferenceSession(str(path))
    output = session.get_outputs()[0].name
    outputs = [{output: session.run([output], {"input": row[None]})[0]} for row in rows]
    return Model(name, path, "input", rows, outputs)
