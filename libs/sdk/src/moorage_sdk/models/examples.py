"""What the pusher's model answered to the example, recorded for a host to answer again."""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from moorage_common.contracts.desired import ArtifactRef, LoadSpec, ValidationRun
from moorage_common.contracts.examples import Example, Examples
from moorage_common.contracts.tensors import Signature
from moorage_common.errors import MoorageError
from moorage_runtime.conform import conform
from moorage_runtime.formats import load_model
from moorage_runtime.v2 import DTYPES, Array, InferRequest, canonical, encode_request, encode_response
from moorage_runtime.validation import compare
from moorage_sdk.errors import ModelRefused
from moorage_sdk.inputs import is_dataframe, named_arrays
from moorage_sdk.models.prepared import Prepared

ROWS_MAX = 256
"""More rows than this add to the upload, not to the check."""


def usable_rows(example: Any) -> Any:
    """At most the first ROWS_MAX rows, without those that hold NaN, which JSON has not.

    Raises:
        ModelRefused: no row is left.
    """
    if isinstance(example, Mapping):
        return {name: np.asarray(value)[:ROWS_MAX] for name, value in example.items()}
    rows: Any = example if is_dataframe(example) else np.asarray(example)
    rows = rows[:ROWS_MAX]
    if is_dataframe(rows):
        kept = rows[~rows.isna().any(axis=1)]
    elif rows.dtype.kind == "f" and rows.ndim:
        kept = rows[np.isfinite(rows).reshape(len(rows), -1).all(axis=1)]
    else:
        kept = rows
    if not len(kept):
        raise ModelRefused("the example has no row without missing values; give some that are whole: example=X[:8]")
    return kept


def _as_declared(signature: Signature, outputs: Mapping[str, Array]) -> dict[str, Array]:
    """The answers in the signature's datatypes: a graph computes in FP32 what the estimator computes in FP64."""
    declared = {}
    for spec in signature.outputs:
        if spec.name in outputs:
            array = outputs[spec.name]
            declared[spec.name] = array if spec.datatype == "BYTES" else array.astype(DTYPES[spec.datatype])
    return declared


def _load(prepared: Prepared, path: Path) -> Any:
    path.write_bytes(prepared.content)
    digest = f"sha256:{hashlib.sha256(prepared.content).hexdigest()}"
    spec = LoadSpec(
        tenant="local",
        model="local",
        version=1,
        format=prepared.format,
        artifact=ArtifactRef(digest=digest, size_bytes=len(prepared.content)),
        signature=prepared.signature,
    )
    return load_model(path, spec)


def _agree(expected: dict[str, Array], got: dict[str, Array], prepared: Prepared) -> None:
    limits = ValidationRun.model_fields
    found = compare(expected, got, rtol=limits["rtol"].default, atol=limits["atol"].default)
    if found.reason:
        raise ModelRefused(
            f"saved as {prepared.format}, the model answers otherwise than it does here: {found.reason}; "
            "push it in another format (format='skops' for scikit-learn)"
        )


def record(prepared: Prepared, example: Any) -> Examples:
    """The example as a V2 request with the answers of the pusher's own model.

    The saved artifact is loaded as a host does and must agree, so that most differences show before the upload.

    Raises:
        ModelRefused: it does not load, refuses the example, or answers otherwise.
    """
    try:
        named = named_arrays(example, prepared.signature.inputs)
        inputs, _rows = conform(prepared.signature, {name: canonical(array) for name, array in named.items()})
        with tempfile.TemporaryDirectory(prefix="moorage-") as directory:
            model = _load(prepared, Path(directory) / "blob")
            got = model.predict(inputs, [spec.name for spec in prepared.signature.outputs])
        if prepared.answer is None:
            expected = _as_declared(prepared.signature, got)
        else:
            expected = _as_declared(prepared.signature, prepared.answer(example))
            _agree(expected, got, prepared)
        return Examples(examples=[example_of(inputs, expected)])
    except MoorageError as error:
        raise ModelRefused(error.message) from error


def example_of(inputs: dict[str, Array], outputs: dict[str, Array]) -> Example:
    """A V2 request and its answer, as they are recorded."""
    request = json.loads(encode_request(inputs, binary=False).body)
    answer = encode_response(InferRequest(inputs={}), model_name="", model_version="", outputs=outputs)
    return Example(request=request, outputs=json.loads(answer.body)["outputs"])
