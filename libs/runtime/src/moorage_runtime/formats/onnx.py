"""ONNX through onnxruntime: on CPU, or on CUDA with a memory limit where there is a GPU."""

import ctypes
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from moorage_common.contracts.desired import LoadSpec
from moorage_common.contracts.tensors import Datatype, Signature, TensorSpec
from moorage_common.errors import BadRequest, Unprocessable
from moorage_runtime.v2 import Array, texts
from moorage_runtime.v2.binary import narrowed, widened

DATATYPES: dict[str, Datatype] = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(bfloat16)": "BF16",
    "tensor(string)": "BYTES",
}


_BFLOAT16 = 16
"""ONNX's own number for the type."""


class OnnxModel:
    """An onnxruntime session."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self._text_inputs = {i.name for i in session.get_inputs() if i.type == "tensor(string)"}
        self._outputs = {o.name for o in session.get_outputs()}
        if "CUDAExecutionProvider" in session.get_providers():
            self.inline_s = 0.0  # waiting for a device is no work for the event loop
        self._bf16_inputs = {i.name for i in session.get_inputs() if i.type == "tensor(bfloat16)"}
        self._bf16 = bool(self._bf16_inputs) or any(o.type == "tensor(bfloat16)" for o in session.get_outputs())

    def predict(self, inputs: dict[str, Array], wanted: Collection[str]) -> dict[str, Array]:
        """Run the graph as far as `wanted` needs."""
        feed = {name: texts(a) if name in self._text_inputs else a for name, a in inputs.items()}
        names = [name for name in wanted if name in self._outputs]
        try:
            found = self._run_bound(names, feed) if self._bf16 else self._session.run(names, feed)
        except ort_errors.InvalidArgument as error:
            raise BadRequest(f"the model refuses the input: {str(error).splitlines()[0][:300]}") from None
        return {name: np.asarray(value) for name, value in zip(names, found, strict=True)}

    def _run_bound(self, names: list[str], feed: Mapping[str, Array]) -> list[Array]:
        """As `run`, for graphs with BF16, which numpy does not have: its bits are bound as they lie in memory."""
        binding = self._session.io_binding()
        held = []
        for name, array in feed.items():
            if name in self._bf16_inputs:
                held.append(ort.OrtValue.ortvalue_from_numpy_with_onnx_type(narrowed(array), _BFLOAT16))
            else:
                held.append(ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array)))
            binding.bind_ortvalue_input(name, held[-1])
        for name in names:
            binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(binding)
        return [_array(value) for value in binding.get_outputs()]


def _array(value: Any) -> Array:
    if value.data_type() != "tensor(bfloat16)":
        return np.asarray(value.numpy())
    bits = np.frombuffer(ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes()), dtype="<u2")
    return widened(bits).reshape(value.shape())


def _providers(gpu_mem_mib: int) -> list[Any]:
    cpu = "CPUExecutionProvider"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in {"", "-1"}
    if hidden or "CUDAExecutionProvider" not in ort.get_available_providers() or not Path("/dev/nvidiactl").exists():
        return [cpu]
    cuda: dict[str, str] = {"arena_extend_strategy": "kSameAsRequested"}
    if gpu_mem_mib:
        cuda["gpu_mem_limit"] = str(gpu_mem_mib * 1024 * 1024)
    return [("CUDAExecutionProvider", cuda), cpu]


def open_session(path: Path, *, threads: int, gpu_mem_mib: int = 0) -> ort.InferenceSession:
    """A session on the file; onnxruntime refuses external data outside the file's own directory.

    Raises:
        Unprocessable: not ONNX, an operator it does not know, external data.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning threads would eat the processor time of the models beside this one.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(str(path), options, providers=_providers(gpu_mem_mib))
    except Exception as error:  # noqa: BLE001 - onnxruntime raises a dozen types of its own
        text = str(error).splitlines()[0][:500]
        raise Unprocessable(f"onnxruntime {ort.__version__} cannot load the model: {text}", code="bad_onnx") from None


def session_signature(session: ort.InferenceSession) -> Signature:
    """Names, types and shapes as the graph states them; symbolic dimensions are -1.

    It is batchable when every input and output has a free first dimension.

    Raises:
        Unprocessable: inputs or outputs that are not tensors (export classifiers with zipmap=False).
    """

    def spec(node: Any) -> TensorSpec:
        if node.type not in DATATYPES:
            raise Unprocessable(
                f"'{node.name}' is {node.type}, not a tensor that V2 can carry; scikit-learn classifiers export with "
                "options={'zipmap': False}",
                code="bad_signature",
            )
        shape = [d if isinstance(d, int) and d > 0 else -1 for d in node.shape]
        return TensorSpec(name=node.name, datatype=DATATYPES[node.type], shape=shape)

    inputs = [spec(i) for i in session.get_inputs()]
    outputs = [spec(o) for o in session.get_outputs()]
    if "BYTES" in {t.datatype for t in inputs} and "BF16" in {t.datatype for t in [*inputs, *outputs]}:
        raise Unprocessable(
            "the graph takes strings beside BF16, which onnxruntime cannot bind together; cast BF16 to FP32 at its "
            "inputs and outputs",
            code="bad_signature",
        )
    batchable = all(t.shape and t.shape[0] == -1 for t in [*inputs, *outputs])
    return Signature(inputs=inputs, outputs=outputs, batchable=batchable)


def load(path: Path, spec: LoadSpec) -> OnnxModel:
    """Load and hold the graph against the recorded signature.

    Raises:
        Unprocessable: not loadable, or its inputs and outputs are not those of the signature.
    """
    session = open_session(path, threads=spec.threads, gpu_mem_mib=spec.gpu_mem_mib)
    graph = session_signature(session)
    for kind, recorded, real in (
        ("input", spec.signature.inputs, graph.inputs),
        ("output", spec.signature.outputs, graph.outputs),
    ):
        types = {t.name: t.datatype for t in real}
        for tensor in recorded:
            if types.get(tensor.name) != tensor.datatype:
                raise Unprocessable(
                    f"the signature's {kind} '{tensor.name}' is {tensor.datatype}, the graph has {types}",
                    code="bad_signature",
                )
    return OnnxModel(session)
