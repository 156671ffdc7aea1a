"""What every driver shares: the job on standard input, one result a cell on standard output.

A driver runs in its client's own environment and imports nothing of the suite or of Moorage.
"""

import base64
import json
import struct
import sys
import traceback
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np

DTYPES = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1", "INT16": "<i2",
    "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip

Json = dict[str, Any]


def array(tensor: Json) -> np.ndarray:
    """A job's tensor as the array that a user would have; BYTES as `bytes` objects, BF16 as its bit patterns."""
    raw = base64.b64decode(tensor["raw"])
    if tensor["datatype"] != "BYTES":
        return np.frombuffer(raw, DTYPES.get(tensor["datatype"], "<u2")).reshape(tensor["shape"])
    found, at = [], 0
    while at < len(raw):
        (size,) = struct.unpack_from("<I", raw, at)
        found.append(raw[at + 4 : at + 4 + size])
        at += 4 + size
    values = np.empty(len(found), dtype=object)
    values[:] = found
    return values.reshape(tensor["shape"])


def packed(values: Any, datatype: str, shape: Any) -> Json:
    """An answer's tensor for the suite to compare."""
    if datatype == "BYTES":
        elements = [v if isinstance(v, bytes) else str(v).encode() for v in np.asarray(values, object).ravel().tolist()]
        raw = b"".join(struct.pack("<I", len(element)) + element for element in elements)
    else:
        # Of BF16 the client's own array, whatever type it has for it.
        raw = np.ascontiguousarray(values, DTYPES.get(datatype)).tobytes()
    return {"datatype": datatype, "shape": list(shape), "raw": base64.b64encode(raw).decode()}


def told(error: BaseException) -> Json:
    """A client's exception as a result."""
    return {"error": f"{type(error).__name__}: {error}"[:500], "at": traceback.format_exc(limit=-2)[-600:]}


def done(result: Callable[[], Json], cell: str) -> Json:
    """One cell's result, whatever the client raises."""
    try:
        return {"cell": cell, **result()}
    except Exception as error:  # noqa: BLE001 - a client may raise anything
        return {"cell": cell, **told(error)}


def run(client: str, answer: Callable[[Json], list[Json]]) -> None:
    """Read the job, answer it, print `{version, results}`. What the client itself prints goes to standard error."""
    out, sys.stdout = sys.stdout, sys.stderr
    job = json.load(sys.stdin)
    json.dump({"version": version(client), "results": answer(job)}, out)
