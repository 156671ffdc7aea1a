"""Calls over the Open Inference Protocol."""

from collections.abc import Mapping
from typing import Any

from moorage_common.contracts.tensors import TensorSpec
from moorage_common.errors import MoorageError
from moorage_runtime.v2 import HEADER_LENGTH, Array, decode_json_tensors, decode_response, encode_request
from moorage_sdk.errors import MoorageApiError
from moorage_sdk.inputs import WrongInputs, named_arrays
from moorage_sdk.transport import Transport


def _is_request(inputs: Any) -> bool:
    """Whether `inputs` is a V2 request already, rather than an input that happens to be called `inputs`."""
    if not isinstance(inputs, Mapping):
        return False
    tensors = inputs.get("inputs")
    return isinstance(tensors, list) and bool(tensors) and all(isinstance(t, dict) and "name" in t for t in tensors)


class Inference:
    """Asks models through the router; remembers what inputs they take."""

    def __init__(self, router: Transport) -> None:
        self._router = router
        self._inputs: dict[str, list[TensorSpec]] = {}

    @staticmethod
    def path(name: str, version: int | None = None) -> str:
        return f"/v2/models/{name}" if version is None else f"/v2/models/{name}/versions/{version}"

    def inputs(self, name: str, version: int | None = None) -> list[TensorSpec]:
        """The inputs that a model takes, by its metadata."""
        path = self.path(name, version)
        if path not in self._inputs:
            metadata = self._router.json("GET", path)
            self._inputs[path] = [TensorSpec.model_validate(tensor) for tensor in metadata["inputs"]]
        return self._inputs[path]

    def is_ready(self, name: str, version: int | None = None) -> bool:
        """Whether a replica answers; False also while the router does not know the model yet."""
        try:
            self._router.request("GET", f"{self.path(name, version)}/ready")
        except MoorageApiError as error:
            if error.status in (0, 404, 503):
                return False
            raise
        return True

    def infer(self, name: str, inputs: Any, *, version: int | None = None, raw: bool = False) -> Any:
        """Outputs by name, as arrays; with `raw` the protocol's answer (JSON)."""
        path = self.path(name, version)
        try:
            if _is_request(inputs):
                answer = self._router.json("POST", f"{path}/infer", json=inputs)
                return answer if raw else decode_json_tensors(answer["outputs"])
            arrays = self._named(name, version, inputs)
            # JSON both ways where the answer is to be read as JSON; else arrays with NaN travel as raw bytes.
            request = encode_request(arrays, binary=False if raw else None)
        except MoorageError as error:
            raise WrongInputs(error.message) from error
        try:
            response = self._router.request("POST", f"{path}/infer", content=request.body, headers=request.headers)
        except MoorageApiError as error:
            if error.status in (400, 404):
                self._inputs.pop(path, None)
            raise
        if raw:
            return response.json()
        return decode_response(response.content, response.headers.get(HEADER_LENGTH)).outputs

    def _named(self, name: str, version: int | None, inputs: Any) -> dict[str, Array]:
        return named_arrays(inputs, self.inputs(name, version))
