"""Tensors' metadata as the Open Inference Protocol names it."""

from typing import Literal

from pydantic import Field

from moorage_common.contracts.model import Contract

Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64", "BF16", "BYTES",
]  # fmt: skip


class TensorSpec(Contract):
    """One input or output of a model. A dimension of -1 is free; the first is the batch where the model batches."""

    name: str
    datatype: Datatype
    shape: list[int]
    columns: list[str] | None = Field(default=None, description="Column names of the last axis, in training order.")
    labels: list[int | str] | None = Field(
        default=None, description="Class labels in order, where the format itself does not hold them (LightGBM)."
    )


class Signature(Contract):
    """What a version takes and gives, in order."""

    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    batchable: bool = Field(default=True, description="Rows of the first axis are independent of each other.")


Format = Literal["onnx", "skops", "xgboost", "lightgbm", "ray-serve"]

DATA_FORMATS: frozenset[str] = frozenset({"onnx", "skops", "xgboost", "lightgbm"})
"""Formats that hold data, not code: safe to retry, to pool and to run in a tenant's plain host."""

CODE_FORMATS: frozenset[str] = frozenset({"ray-serve"})
"""Formats that are a tenant's code: an administrator allows them, and each replica has a process of its own."""
