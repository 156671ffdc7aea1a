"""Calls over the Open Inference Protocol, blocking."""

from typing import Any, Unpack

from moorage_sdk.errors import MoorageApiError
from moorage_sdk.protocol import (
    NOTHING_KNOWN,
    InferOptions,
    Metadata,
    infer_call,
    is_request,
    is_unready,
    metadata_call,
    model_path,
    read_answer,
    read_metadata,
    ready_call,
)
from moorage_sdk.transport import Transport
from moorage_sdk.wire import Call


class Inference:
    """Asks models through the router; remembers what they take."""

    def __init__(self, router: Transport) -> None:
        self.router = router
        self._known: dict[str, Metadata] = {}

    def metadata(self, name: str, version: int | None = None) -> Metadata:
        """What a model takes and gives, asked once."""
        path = model_path(name, version)
        if path not in self._known:
            self._known[path] = read_metadata(self.router.send(metadata_call(path)))
        return self._known[path]

    def is_ready(self, name: str, version: int | None = None) -> bool:
        """Whether a replica answers; False also while the router does not know the model yet."""
        try:
            self.router.send(ready_call(model_path(name, version)))
        except MoorageApiError as error:
            if is_unready(error):
                return False
            raise
        return True

    def infer(self, name: str, inputs: Any, **options: Unpack[InferOptions]) -> Any:
        """As `Client.infer`."""
        version = options.get("version")
        known = self._known_of(name, inputs, version)
        call = infer_call(model_path(name, version), inputs, known, options)
        try:
            reply = self.router.send(call)
        except MoorageApiError as error:
            if error.status in (400, 404):
                self._known.pop(model_path(name, version), None)
            raise
        return read_answer(reply, inputs, known, options)

    def call(self, name: str, inputs: Any, **options: Unpack[InferOptions]) -> Call:
        """What `infer` would send."""
        version = options.get("version")
        return infer_call(model_path(name, version), inputs, self._known_of(name, inputs, version), options)

    def _known_of(self, name: str, inputs: Any, version: int | None) -> Metadata:
        return NOTHING_KNOWN if is_request(inputs) else self.metadata(name, version)
