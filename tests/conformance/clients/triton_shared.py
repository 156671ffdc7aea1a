"""What both of tritonclient's HTTP clients take and give."""

from typing import Any

import ml_dtypes
from job import Json, array, packed
from tritonclient.http import InferInput, InferRequestedOutput


def arguments(item: Json) -> Json:
    """Arguments of `infer` but the headers, to which the client adds its own: give it a copy.

    All binary is the client's own default: no outputs named.
    """
    inputs = []
    for tensor in item["inputs"]:
        values = array(tensor)
        if tensor["datatype"] == "BF16":
            values = values.view(ml_dtypes.bfloat16)
        made = InferInput(tensor["name"], tensor["shape"], tensor["datatype"])
        inputs.append(made.set_data_from_numpy(values, binary_data=tensor["binary"]))
    outputs = [InferRequestedOutput(name, binary_data=raw) for name, raw in item["answered"].items()]
    packing = None if item["packing"] == "plain" else item["packing"]
    return {
        "model_name": item["model"],
        "model_version": item["version"],
        "request_id": item["id"],
        "inputs": inputs,
        "outputs": None if all(item["answered"].values()) else outputs,
        "request_compression_algorithm": packing,
        "response_compression_algorithm": packing,
    }


def result(answer: Any) -> Json:
    """An `InferResult` for the suite."""
    document = answer.get_response()
    tensors = {
        output["name"]: packed(answer.as_numpy(output["name"]), output["datatype"], output["shape"])
        for output in document["outputs"]
    }
    return {"outputs": tensors, **{key: document.get(key) for key in ("model_name", "model_version", "id")}}
