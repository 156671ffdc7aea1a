"""Labels that come back, and what was answered: streams FEEDBACK and OUTPUTS."""

import math
from typing import Literal

from pydantic import Field

from moorage_common.contracts.model import Contract

OUTPUT_BYTES = 1024
"""A compact output is at most this long."""

OutputKind = Literal["class", "number"]


class Output(Contract):
    """The compact output of one answered request: the class, or the number, of its first row."""

    kind: OutputKind
    value: str = Field(max_length=OUTPUT_BYTES)
    """A class's label, or a number as `repr` writes it."""


_MARKS: dict[OutputKind, bytes] = {"class": b"c", "number": b"n"}
_KINDS: dict[bytes, OutputKind] = {mark: kind for kind, mark in _MARKS.items()}


def encode_output(output: Output) -> bytes:
    """As hosts send it to routers: `c` and the label in UTF-8, or `n` and the number."""
    return _MARKS[output.kind] + output.value.encode()


def decode_output(data: bytes) -> Output | None:
    """What `encode_output` made; None for anything else, a number that is not finite included."""
    kind = _KINDS.get(data[:1])
    if kind is None or len(data) > OUTPUT_BYTES + 1:
        return None
    try:
        value = data[1:].decode()
        if kind == "number" and not math.isfinite(float(value)):
            return None
    except ValueError:
        return None
    return Output(kind=kind, value=value)


class AnsweredOutput(Contract):
    """`ulid` is of the request id. `other` is what `other_version` answered to a copy of the same request."""

    ulid: str
    tenant: str
    model: str
    version: int
    at: float
    output: Output
    other_version: int | None = None
    other: Output | None = None


class OutputsChunk(Contract):
    """Outputs that one router kept, in one message; `chunk_id` is its `Nats-Msg-Id`."""

    chunk_id: str
    outputs: list[AnsweredOutput]


class Feedback(Contract):
    """What is known of an answer: the true `label`, or whether it was `correct`, or its `loss`; the first given counts.

    `version` and `ulid` are from the request id, whose MAC the router has checked.
    """

    tenant: str
    model: str
    version: int
    ulid: str
    at: float
    label: str | float | bool | None = None
    correct: bool | None = None
    loss: float | None = None


class FeedbackChunk(Contract):
    """Of one call of a client. `chunk_id` is its `Nats-Msg-Id`: from the ids, so that a retry is no second label."""

    chunk_id: str
    feedback: list[Feedback]
