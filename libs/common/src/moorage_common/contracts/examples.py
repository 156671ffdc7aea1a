"""What the pusher saw: V2 requests and the answers the notebook's own model gave. Stored as an artifact."""

from typing import Any

from moorage_common.contracts.model import Contract


class Example(Contract):
    """`request` is a V2 inference request body, `outputs` the V2 output tensors expected of it."""

    request: dict[str, Any]
    outputs: list[dict[str, Any]]


class Examples(Contract):
    examples: list[Example]
