"""What a model answered."""

from collections.abc import Mapping
from typing import Any

from moorage_runtime.v2 import Array


class Answer(dict[str, Array]):
    """Arrays by output name, in the model's order, and what is known of the answer.

    Attributes:
        model_name: the model.
        model_version: the version that answered, as text.
        request_id: `Moorage-Request-Id`, which names this answer in feedback and support; empty from another server.
        id: the caller's own id, if one was sent.
        parameters: what the model's server said beside the outputs.
    """

    def __init__(
        self,
        outputs: Mapping[str, Array],
        *,
        model_name: str = "",
        model_version: str = "",
        request_id: str = "",
        id: str | None = None,  # noqa: A002 - the protocol's word
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(outputs)
        self.model_name = model_name
        self.model_version = model_version
        self.request_id = request_id
        self.id = id
        self.parameters = dict(parameters or {})
