"""Entities out of a request's inputs, and features into them. Pure.

Named inputs when the signature has an input for every feature (`view__feature` or `feature`); else one tensor, its
columns in the signature's order, or in the order pinned at push where it names none. Entity inputs that the
signature does not know are dropped.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from msgspec.structs import replace

from moorage_common.contracts.features import ROWS_MAX
from moorage_common.contracts.routes import FeatureJoin, RouteVersion
from moorage_common.contracts.tensors import TensorSpec
from moorage_common.errors import BadRequest, Unprocessable
from moorage_router.features.columns import cast, recast
from moorage_runtime.v2 import DTYPES, Array, InferRequest

Columns = Mapping[str, list[Any]]
"""Values of features by name, one a row."""

_EXACT_FLOAT = 2**53
"""Beyond this, neighbouring integers are the same float."""


def entities_of(inputs: Mapping[str, Array], join: FeatureJoin) -> dict[str, list[Any]]:
    """Join key -> its values, integers or text, one a row. Raises BadRequest."""
    sent: dict[str, Array] = {}
    for join_key, name in join.entities.items():
        array = inputs.get(name)
        if array is None or not array.size:
            message = f"this model joins features by {join_key}: send an input named {name}"
            raise BadRequest(message, code="entity_missing")
        sent[join_key] = array
    if len({array.size for array in sent.values()}) > 1:
        sizes = ", ".join(f"{join.entities[key]}: {array.size}" for key, array in sent.items())
        message = f"the entity inputs need the same number of rows ({sizes})"
        raise BadRequest(message, code="entity_rows_differ")
    if any(array.size > ROWS_MAX for array in sent.values()):
        message = f"a model with features takes at most {ROWS_MAX} rows in one request; split it"
        raise BadRequest(message, code="too_many_rows")
    return {join_key: _entity(join.entities[join_key], array.ravel()) for join_key, array in sent.items()}


def _entity(name: str, flat: Array) -> list[Any]:
    """An entity input as Feast's keys can be: pandas makes floats of integers, so whole floats are integers."""
    message = f"the entity input {name} must hold whole numbers or text in UTF-8"
    if flat.dtype.kind in "iu":
        return list(flat.tolist())
    if flat.dtype.kind == "f":
        wide = flat.astype(np.float64)
        if not ((np.abs(wide) <= _EXACT_FLOAT) & (wide == np.rint(wide))).all():
            raise BadRequest(message, code="entity_type_mismatch")
        return list(wide.astype(np.int64).tolist())
    if flat.dtype.kind == "b":
        raise BadRequest(message, code="entity_type_mismatch")
    try:
        return [value.decode() for value in flat.tolist()]
    except UnicodeDecodeError:
        raise BadRequest(message, code="entity_type_mismatch") from None


def joined(request: InferRequest, join: FeatureJoin, spec: RouteVersion, columns: Columns) -> InferRequest:
    """The request with the features in its inputs.

    Raises:
        Unprocessable: a column has no source, or a value does not fit the signature's datatype.
    """
    targets = {tensor.name: tensor for tensor in spec.signature.inputs}
    named = {feature: _target(feature, targets) for feature in spec.features}
    made: dict[str, Array] = {}
    if all(target is not None for target in named.values()):
        for feature, target in named.items():
            if target is not None:
                made[target.name] = _named(target, feature, columns[feature])
    elif targets:
        target = spec.signature.inputs[0]
        made[target.name] = _stacked(target, spec.features, columns, request.inputs)
    else:
        message = f"version {spec.version} names no input that features could go into; push it with its signature"
        raise Unprocessable(message, code="column_missing")
    dropped = (set(join.entities.values()) | _columns_of(spec)) - targets.keys()
    inputs = {name: array for name, array in request.inputs.items() if name not in dropped and name not in made}
    datatypes = {name: request.datatypes[name] for name in inputs} | {name: targets[name].datatype for name in made}
    return replace(request, inputs=inputs | made, datatypes=datatypes)


def _columns_of(spec: RouteVersion) -> set[str]:
    """Inputs that a caller may send to become columns of the one tensor."""
    return {name for tensor in spec.signature.inputs[:1] for name in tensor.columns or ()}


def _short(feature: str) -> str:
    return feature.rpartition("__")[2]


def _target(feature: str, targets: Mapping[str, TensorSpec]) -> TensorSpec | None:
    return targets.get(feature) or targets.get(_short(feature))


def _named(target: TensorSpec, feature: str, values: list[Any]) -> Array:
    return cast(feature, values, target.datatype).reshape(-1, *[1] * (len(target.shape) - 1))


def _stacked(target: TensorSpec, features: list[str], columns: Columns, inputs: Mapping[str, Array]) -> Array:
    """One tensor [rows, columns]."""
    rows = len(next(iter(columns.values())))
    by_name = {_short(name): values for name, values in columns.items()} | dict(columns)
    order = target.columns or features
    tensor = np.empty((rows, len(order)), DTYPES[target.datatype])
    for at, name in enumerate(order):
        values, sent = by_name.get(name), inputs.get(name)
        if values is not None:
            tensor[:, at] = cast(name, values, target.datatype)
        elif sent is not None and sent.size == rows:
            tensor[:, at] = recast(name, sent, target.datatype)
        else:
            message = f"column {name} is neither a feature nor an input with {rows} rows; send it as an input"
            raise Unprocessable(message, code="column_missing")
    return tensor
