"""Torch modules, exported to ONNX with a parity check. torch is imported here alone, and only for a torch module."""

import copy
import inspect
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from moorage_runtime.libraries import libraries
from moorage_runtime.v2 import Array
from moorage_sdk.errors import ModelRefused
from moorage_sdk.models.graphs import graph_signature
from moorage_sdk.models.prepared import Prepared

_INSTALL = "exporting a torch module needs torch and onnxscript; run: pip install 'moorage-sdk[torch]'"


def _named(module: Any, example: Any) -> dict[str, Array]:
    """The example by the names of `forward`'s parameters."""
    if isinstance(example, Mapping):
        return {str(name): np.asarray(value) for name, value in example.items()}
    first = next(iter(inspect.signature(module.forward).parameters), "input")
    return {first: np.asarray(example)}


def _outputs(found: Any) -> dict[str, Array]:
    """A module's answer by output name: `predict`, or `output_0`, `output_1`, ... of a tuple."""
    if isinstance(found, Mapping):
        return {str(name): tensor.numpy() for name, tensor in found.items()}
    if isinstance(found, (tuple, list)):
        return {f"output_{at}": tensor.numpy() for at, tensor in enumerate(found)}
    return {"predict": found.numpy()}


def from_module(module: Any, example: Any) -> Prepared:
    """Export `module`, in evaluation mode and on the CPU, with a free first dimension.

    The module itself is left as it is. Doubles of the example become the floats that the weights are.

    Raises:
        ModelRefused: no example, torch or onnxscript is not there, or the exporter fails.
    """
    if example is None:
        raise ModelRefused("a torch module is exported by running it; give an example: example=x[:8]")
    try:
        import onnxscript  # type: ignore[import-not-found,unused-ignore]  # noqa: F401, PLC0415 - optional
        import torch  # noqa: PLC0415 - optional
    except ImportError:
        raise ModelRefused(_INSTALL) from None
    still = copy.deepcopy(module).eval().cpu()
    weights = next(still.parameters(), None)
    is_single = weights is None or weights.dtype == torch.float32

    def tensors_of(given: Any) -> dict[str, Any]:
        arrays = {name: np.ascontiguousarray(array) for name, array in _named(still, given).items()}
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        # numpy makes doubles where nobody asked for them; torch multiplies them with nothing but doubles.
        return {n: t.float() if is_single and t.dtype == torch.float64 else t for n, t in tensors.items()}

    def answer(given: Any) -> dict[str, Array]:
        with torch.no_grad():
            return _outputs(still(**tensors_of(given)))

    try:
        expected = answer(example)
        content = _export(torch, still, tensors_of(example), list(expected))
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise ModelRefused(f"torch cannot run or export the module on the example: {text}") from error
    return Prepared(
        format="onnx",
        content=content,
        signature=graph_signature(content),
        libraries=libraries("onnx") | {"torch": str(torch.__version__)},
        answer=answer,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of operators of libraries that are not there."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _export(torch: Any, module: Any, tensors: dict[str, Any], outputs: list[str]) -> bytes:
    batch = torch.export.Dim("batch")
    with tempfile.TemporaryDirectory(prefix="moorage-") as directory, _quiet():
        path = Path(directory) / "model.onnx"
        torch.onnx.export(
            module,
            (),
            str(path),
            kwargs=tensors,
            input_names=list(tensors),
            output_names=outputs,
            dynamic_shapes={name: {0: batch} for name in tensors},
            external_data=False,
            dynamo=True,
            verbose=False,
        )
        return path.read_bytes()
