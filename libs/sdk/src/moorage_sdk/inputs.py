"""What people have at hand (arrays, DataFrames, mappings, files) as named input tensors."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moorage_common.contracts.tensors import TensorSpec
from moorage_runtime.v2 import DTYPES, Array
from moorage_sdk.errors import SdkError


class WrongInputs(SdkError):
    """The inputs do not fit what the model takes."""


def is_dataframe(value: Any) -> bool:
    """Whether `value` is a pandas DataFrame, without importing pandas."""
    return type(value).__module__.split(".")[0] == "pandas" and hasattr(value, "columns")


def _cast(array: Array, spec: TensorSpec) -> Array:
    """`array` in the declared datatype where that loses no kind of value: ints to floats, doubles to floats."""
    if spec.datatype == "BYTES" or array.dtype.kind in "OUS":
        return array
    wanted = DTYPES[spec.datatype]
    if array.dtype == wanted or not np.can_cast(array.dtype, wanted, "same_kind"):
        return array
    return array.astype(wanted)


def _from_frame(frame: Any, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    names = [str(column) for column in frame.columns]
    if len(specs) == 1 and len(names) != 1:
        columns = specs[0].columns
        if columns is not None and set(columns) <= set(names):
            frame = frame[[frame.columns[names.index(column)] for column in columns]]
        elif columns is not None:
            missing = ", ".join(column for column in columns if column not in names)
            raise WrongInputs(f"the DataFrame lacks columns that the model takes: {missing}")
        return {specs[0].name: _values(frame, specs[0])}
    by_name = {spec.name: spec for spec in specs}
    return {name: _values(frame.iloc[:, at], by_name.get(name)) for at, name in enumerate(names)}


def _values(data: Any, spec: TensorSpec | None) -> Array:
    """A DataFrame's or a column's values; what pandas holds as objects becomes what the model declares.

    Raises:
        WrongInputs: text that is missing, which BYTES cannot carry.
    """
    values: Array = data.to_numpy()
    if spec is None or values.dtype != object:
        return values
    is_missing = bool(np.any(data.isna()))
    if spec.datatype == "BYTES":
        if is_missing:
            raise WrongInputs(f"{spec.name}: a text is missing, which BYTES cannot carry; fill it: frame.fillna('')")
        return values
    if DTYPES[spec.datatype].kind == "f" and is_missing:
        return np.asarray(data.to_numpy(dtype=float, na_value=np.nan))
    return np.array(values.tolist())


def _shaped(array: Array, spec: TensorSpec) -> Array:
    """A column of n values as [n, 1] where the model takes that."""
    if array.ndim == 1 and len(spec.shape) == 2 and spec.shape[1] == 1:
        return array.reshape(-1, 1)
    return array


def named_arrays(inputs: Any, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """`inputs` by input name, cast to the declared datatypes.

    Args:
        inputs: a mapping of names to arrays, a DataFrame (columns by name), or the array of the only input.
        specs: the model's inputs.

    Raises:
        WrongInputs: an array for a model of several inputs, columns that are missing.
    """
    if isinstance(inputs, Mapping):
        arrays = {str(name): np.asarray(value) for name, value in inputs.items()}
    elif is_dataframe(inputs):
        arrays = _from_frame(inputs, specs)
    elif len(specs) == 1:
        arrays = {specs[0].name: np.asarray(inputs)}
    else:
        names = ", ".join(spec.name for spec in specs)
        raise WrongInputs(f"the model has several inputs; give a mapping with {names}")
    by_name = {spec.name: spec for spec in specs}
    return {
        name: _shaped(_cast(array, by_name[name]), by_name[name]) if name in by_name else array
        for name, array in arrays.items()
    }


def read_inputs(path: Path) -> Any:
    """Inputs from a file: .npy (array), .npz (named arrays), .csv (DataFrame), .json (rows, a mapping, a V2 request).

    Raises:
        WrongInputs: another kind of file, or one that cannot be read.
    """
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        if path.suffix == ".json":
            return json.loads(path.read_text(encoding="utf-8"))
        if path.suffix == ".csv":
            import pandas as pd  # noqa: PLC0415 - optional

            return pd.read_csv(path)
    except ImportError:
        raise WrongInputs("reading .csv needs pandas; run: pip install 'moorage-sdk[models]'") from None
    except (OSError, ValueError) as error:
        raise WrongInputs(f"{path} cannot be read: {error}") from error
    raise WrongInputs(f"{path} is not of a kind that is read; give .npy, .npz, .csv or .json")
