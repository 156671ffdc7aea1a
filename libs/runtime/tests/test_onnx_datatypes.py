"""Every datatype through an ONNX graph that gives back what it gets, over the wire's form."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from moorage_common.contracts.desired import ArtifactRef, LoadSpec
from moorage_common.errors import BadRequest, Unavailable, Unprocessable
from moorage_runtime import v2
from moorage_runtime.artifacts import ArtifactCache
from moorage_runtime.conform import conform
from moorage_runtime.formats import onnx as onnx_format
from moorage_runtime.inference import Inference
from moorage_runtime.limits import Limits
from moorage_runtime.versions import Versions

_TYPES = {
    "BOOL": onnx.TensorProto.BOOL,
    "UINT8": onnx.TensorProto.UINT8,
    "UINT16": onnx.TensorProto.UINT16,
    "UINT32": onnx.TensorProto.UINT32,
    "UINT64": onnx.TensorProto.UINT64,
    "INT8": onnx.TensorProto.INT8,
    "INT16": onnx.TensorProto.INT16,
    "INT32": onnx.TensorProto.INT32,
    "INT64": onnx.TensorProto.INT64,
    "FP16": onnx.TensorProto.FLOAT16,
    "FP32": onnx.TensorProto.FLOAT,
    "FP64": onnx.TensorProto.DOUBLE,
    "BF16": onnx.TensorProto.BFLOAT16,
    "BYTES": onnx.TensorProto.STRING,
}


def _identity(path: Path, *datatypes: str) -> Path:
    def values(prefix: str) -> list[onnx.ValueInfoProto]:
        return [
            onnx.helper.make_tensor_value_info(f"{prefix}{i}", _TYPES[t], ["n", 2]) for i, t in enumerate(datatypes)
        ]

    nodes = [onnx.helper.make_node("Identity", [f"x{i}"], [f"y{i}"]) for i in range(len(datatypes))]
    graph = onnx.helper.make_graph(nodes, "identity", values("x"), values("y"))
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def _loaded(path: Path) -> tuple[LoadSpec, onnx_format.OnnxModel]:
    signature = onnx_format.session_signature(onnx_format.open_session(path, threads=1))
    artifact = ArtifactRef(digest="sha256:" + "0" * 64, size_bytes=path.stat().st_size)
    fields = {"tenant": "t", "model": "m", "version": 1, "format": "onnx", "artifact": artifact, "signature": signature}
    spec = LoadSpec.model_validate(fields)
    return spec, onnx_format.load(path, spec)


def _values(datatype: str) -> v2.Array:
    if datatype == "BYTES":
        return np.array([["a", "é"], ["", "😀"]], dtype=object)
    return np.array([[0, 1], [1, 0]] if datatype == "BOOL" else [[0, 1], [100, 3]]).astype(v2.DTYPES[datatype])


@pytest.mark.parametrize("rows", [2, 0])
@pytest.mark.parametrize("datatype", _TYPES)
def test_every_datatype_passes_through_a_graph(datatype: str, rows: int, tmp_path: Path) -> None:
    spec, model = _loaded(_identity(tmp_path / "m.onnx", datatype))
    assert [t.datatype for t in spec.signature.outputs] == [datatype]
    datatypes = {"x0": spec.signature.inputs[0].datatype, "y0": spec.signature.outputs[0].datatype}
    sent = v2.encode_request({"x0": _values(datatype)[:rows]}, binary=True, datatypes=datatypes)
    request = v2.decode_request(sent.body, sent.headers[v2.HEADER_LENGTH])
    if rows:
        inputs, _rows = conform(spec.signature, request.inputs, request.datatypes)
    else:
        inputs = request.inputs
    outputs = model.predict(inputs, ["y0"])
    encoded = v2.encode_response(request, model_name="m", model_version="1", outputs=outputs, datatypes=datatypes)
    response = v2.decode_response(encoded.body, encoded.headers[v2.HEADER_LENGTH])
    assert response.datatypes == {"y0": datatype}
    np.testing.assert_array_equal(response.outputs["y0"], v2.canonical(_values(datatype)[:rows]))


def test_a_graph_mixes_bf16_with_other_numbers(tmp_path: Path) -> None:
    _spec, model = _loaded(_identity(tmp_path / "m.onnx", "BF16", "INT64", "FP16"))
    inputs = {"x0": _values("BF16"), "x1": _values("INT64").T, "x2": _values("FP16")}
    outputs = model.predict(inputs, ["y1", "y0"])
    np.testing.assert_array_equal(outputs["y0"], inputs["x0"])
    np.testing.assert_array_equal(outputs["y1"], inputs["x1"])
    assert list(outputs) == ["y1", "y0"]


def test_a_graph_of_bf16_and_texts_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Unprocessable, match="cast BF16 to FP32"):
        _loaded(_identity(tmp_path / "m.onnx", "BF16", "BYTES"))


async def test_bf16_as_json_is_refused_before_the_model_runs(blobs: Any, tmp_path: Path) -> None:
    spec, _model = _loaded(_identity(tmp_path / "m.onnx", "BF16", "FP32"))
    nobody_waits = Limits(max_waiting=0)
    versions = Versions("demo", ArtifactCache(tmp_path / "cache"), nobody_waits)
    ref = blobs.put((tmp_path / "m.onnx").read_bytes())
    assert versions.load(blobs.spec(ref, "onnx", spec.signature)).state == "ready"
    door = Inference(versions, nobody_waits)

    async def ask(**choice: Any) -> None:
        inputs = {"x0": _values("BF16"), "x1": _values("FP32")}
        sent = v2.encode_request(inputs, datatypes={"x0": "BF16"}, **choice)
        await door.answer("m", 1, sent.body, sent.headers.get(v2.HEADER_LENGTH), time.monotonic() + 20)

    for choice in ({}, {"outputs": ["y0"]}):
        with pytest.raises(BadRequest, match="'y0' is BF16, which has no JSON form"):
            await ask(**choice)
    for choice in ({"binary": True}, {"outputs": ["y1"]}):
        with pytest.raises(Unavailable):
            await ask(**choice)


def test_fp32_is_refused_where_bf16_is_taken_and_bf16_widens(tmp_path: Path) -> None:
    array = _values("FP32")
    narrow, _model = _loaded(_identity(tmp_path / "b.onnx", "BF16"))
    with pytest.raises(BadRequest, match="is FP32, the model takes BF16"):
        conform(narrow.signature, {"x0": array}, {"x0": "FP32"})
    conform(narrow.signature, {"x0": array}, {"x0": "BF16"})
    conform(narrow.signature, {"x0": array})
    for wide in ("FP32", "FP64"):
        spec, _model = _loaded(_identity(tmp_path / "f.onnx", wide))
        inputs, _rows = conform(spec.signature, {"x0": array}, {"x0": "BF16"})
        assert inputs["x0"].dtype == v2.DTYPES[wide]
