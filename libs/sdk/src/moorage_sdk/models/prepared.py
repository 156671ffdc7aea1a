"""A model in its safe format, with its pusher's own way of answering."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from moorage_common.contracts.tensors import Format, Signature
from moorage_runtime.v2 import Array

Answer = Callable[[Any], dict[str, Array]]
"""What the pusher's own model answers, output by output, to an example as the pusher gave it."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """An artifact with its signature. `answer` is None where only the file is there, no live model."""

    format: Format
    content: bytes = field(repr=False)
    signature: Signature
    libraries: dict[str, str]
    answer: Answer | None = field(default=None, repr=False)
