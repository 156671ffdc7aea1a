"""Whether a request agrees with a signature. Pure."""

from collections.abc import Mapping

import numpy as np

from moorage_common.contracts.tensors import Datatype, Signature, TensorSpec
from moorage_common.errors import BadRequest
from moorage_runtime.v2 import DTYPES, Array, datatype_of

_NONE_SAID: dict[str, Datatype] = {}


def conform(
    signature: Signature, inputs: Mapping[str, Array], datatypes: Mapping[str, Datatype] = _NONE_SAID
) -> tuple[dict[str, Array], int]:
    """The inputs in signature order with its datatypes, and their rows (1 where the model does not batch).

    A datatype that converts without loss (FP32 to FP64, BF16 to FP32, INT32 to INT64) is converted; a column `[n]`
    may come as `[n, 1]`.

    Args:
        datatypes: what the inputs were on the wire. Arrays alone do not tell BF16 from FP32, so FP32 without a word
            here is taken for either.

    Raises:
        BadRequest: a missing or unknown input, another datatype or shape, inputs of unequal rows.
    """
    expected = [spec.name for spec in signature.inputs]
    for name in inputs:
        if name not in expected:
            raise BadRequest(f"unknown input '{name}'; the model takes {_listed(expected)}")
    arrays = {}
    for spec in signature.inputs:
        if spec.name not in inputs:
            raise BadRequest(f"input '{spec.name}' is missing; the model takes {_listed(expected)}")
        arrays[spec.name] = _shaped(spec, _typed(spec, inputs[spec.name], datatypes.get(spec.name)))
    if not signature.batchable:
        return arrays, 1
    rows = {name: len(array) for name, array in arrays.items()}
    if len(set(rows.values())) != 1:
        raise BadRequest(f"inputs have unequal numbers of rows: {rows}")
    count = next(iter(rows.values()))
    if count == 0:
        raise BadRequest("inputs have no rows; send at least one")
    return arrays, count


def chosen_outputs(signature: Signature, asked: tuple[str, ...] | None) -> tuple[str, ...]:
    """Names of the outputs to answer with, in signature order.

    Raises:
        BadRequest: an output that the model does not have.
    """
    names = tuple(spec.name for spec in signature.outputs)
    if asked is None:
        return names
    for name in asked:
        if name not in names:
            raise BadRequest(f"unknown output '{name}'; the model gives {_listed(names)}")
    return tuple(name for name in names if name in asked)


def _listed(names: tuple[str, ...] | list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:20])
    return f"{shown} and {len(names) - 20} more" if len(names) > 20 else shown


def _typed(spec: TensorSpec, array: Array, said: Datatype | None) -> Array:
    wanted = DTYPES[spec.datatype]
    narrows = spec.datatype == "BF16" and said not in {None, "BF16"}
    if array.dtype == wanted and not narrows:
        return array
    if narrows or wanted.kind == "O" or array.dtype.kind == "O" or not np.can_cast(array.dtype, wanted, "safe"):
        raise BadRequest(
            f"input '{spec.name}' is {said or datatype_of(array)}, the model takes {spec.datatype}; send that datatype"
        )
    return array.astype(wanted)


def _shaped(spec: TensorSpec, array: Array) -> Array:
    if len(spec.shape) == 1 and array.ndim == 2 and array.shape[1] == 1:
        array = array.reshape(-1)
    fits = array.ndim == len(spec.shape) and all(
        want in {-1, have} for want, have in zip(spec.shape, array.shape, strict=True)
    )
    if not fits:
        raise BadRequest(
            f"input '{spec.name}' has shape {list(array.shape)}, the model takes {spec.shape} (-1 is any size)"
        )
    return array
