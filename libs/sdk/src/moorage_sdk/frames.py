"""Answers as pandas DataFrames."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from moorage_common.contracts.tensors import TensorSpec
from moorage_runtime.v2 import Array
from moorage_sdk.answer import Answer
from moorage_sdk.errors import SdkError
from moorage_sdk.inputs import is_dataframe

if TYPE_CHECKING:
    import pandas as pd


def _text(value: Any) -> Any:
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return value


def _columns(name: str, array: Array, spec: TensorSpec | None) -> Iterator[tuple[str, Array]]:
    if array.dtype.kind == "O":
        texts = np.empty(array.size, dtype=object)
        texts[:] = [_text(value) for value in array.ravel().tolist()]
        array = texts.reshape(array.shape)
    if array.ndim == 1:
        yield name, array
    elif array.ndim == 2 and array.shape[1] == 1:
        yield name, array[:, 0]
    elif array.ndim == 2:
        known = spec.columns if spec is not None and spec.columns is not None else []
        names = known if len(known) == array.shape[1] else range(array.shape[1])
        for at, column in enumerate(names):
            yield f"{name}_{column}", array[:, at]
    else:
        raise SdkError(f"output {name} has shape {list(array.shape)}, which is no table; leave frame=True away")


def frame_of(answer: Answer, specs: Sequence[TensorSpec], inputs: Any) -> "pd.DataFrame":
    """One row a row: an output of shape [n] or [n, 1] is a column of its name, one of [n, k] the columns
    `<name>_0`, `<name>_1`, ... (or by the signature's column names). BYTES that are UTF-8 come as text.

    The index is the one of `inputs` where that is a DataFrame of as many rows. `attrs` has `model_version` and
    `request_id`.

    Raises:
        SdkError: pandas is not installed, an output of more dimensions, outputs of different numbers of rows.
    """
    try:
        import pandas as pd  # noqa: PLC0415 - optional
    except ImportError:
        raise SdkError("frame=True needs pandas; run: pip install 'moorage-sdk[models]'") from None
    by_name = {spec.name: spec for spec in specs}
    columns = {
        column: values for name, array in answer.items() for column, values in _columns(name, array, by_name.get(name))
    }
    rows = {len(values) for values in columns.values()}
    if len(rows) > 1:
        raise SdkError(f"the outputs have {sorted(rows)} rows, which is no table; ask for one of them: outputs=[...]")
    index = inputs.index if is_dataframe(inputs) and rows == {len(inputs)} else None
    frame = pd.DataFrame(columns, index=index)
    frame.attrs |= {"model_version": answer.model_version, "request_id": answer.request_id}
    return frame
