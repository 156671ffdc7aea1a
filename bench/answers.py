"""Whether an HTTP body holds the answer that was expected, as V2 JSON, as V2 binary, or as raw numbers."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Expected = Mapping[str, Sequence[float]]
"""Values by output name, flattened."""

_DTYPES = {"FP64": "<f8", "FP32": "<f4", "INT64": "<i8", "INT32": "<i4"}
_RTOL, _ATOL = 1e-4, 1e-5


def holds(body: bytes, header_length: int | None, expected: Expected) -> bool:
    """True if `body` carries every expected output within float32's accuracy.

    Args:
        header_length: of a V2 binary answer; None for JSON and for raw numbers.
        expected: with the one name "" the body is raw little-endian float32.
    """
    try:
        found = _found(body, header_length, raw="" in expected)
    except (ValueError, KeyError, TypeError, IndexError):
        return False
    return all(
        name in found
        and found[name].size == len(wanted)
        and bool(np.allclose(found[name], np.asarray(wanted), rtol=_RTOL, atol=_ATOL))
        for name, wanted in expected.items()
    )


def _found(body: bytes, header_length: int | None, *, raw: bool) -> dict[str, Array]:
    if raw:
        return {"": np.frombuffer(body, "<f4")}
    document = json.loads(body if header_length is None else body[:header_length])
    if isinstance(document, list):  # BentoML answers a batch of one with a list of one
        (document,) = document
    at = 0 if header_length is None else header_length
    out: dict[str, Array] = {}
    for tensor in document["outputs"]:
        size = (tensor.get("parameters") or {}).get("binary_data_size")
        if size is None:
            out[tensor["name"]] = np.asarray(tensor["data"], dtype=np.float64).ravel()
        else:
            out[tensor["name"]] = np.frombuffer(body[at : at + size], _DTYPES[tensor["datatype"]])
            at += size
    return out
