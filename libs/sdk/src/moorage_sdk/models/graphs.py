"""ONNX graphs as they are: from a ModelProto, from a file, or exported by another module."""

import tempfile
from pathlib import Path
from typing import Any

from moorage_common.contracts.tensors import Signature
from moorage_common.errors import MoorageError
from moorage_runtime.formats.onnx import open_session, session_signature
from moorage_runtime.libraries import libraries
from moorage_sdk.errors import ModelRefused
from moorage_sdk.models.prepared import Prepared


def graph_signature(content: bytes) -> Signature:
    """What the graph says of its inputs and outputs.

    Raises:
        ModelRefused: onnxruntime cannot load it, or its tensors are not of a kind that is served.
    """
    with tempfile.TemporaryDirectory(prefix="moorage-") as directory:
        path = Path(directory) / "model.onnx"
        path.write_bytes(content)
        try:
            return session_signature(open_session(path, threads=1))
        except MoorageError as error:
            raise ModelRefused(error.message) from error


def as_it_is(content: bytes) -> Prepared:
    """An ONNX model; its examples are answered by onnxruntime."""
    return Prepared(format="onnx", content=content, signature=graph_signature(content), libraries=libraries("onnx"))


def from_proto(model: Any) -> Prepared:
    return as_it_is(model.SerializeToString())
