"""What a rollout sees, entry by entry: folding the same entries in the same order gives the same evidence."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, TypeAdapter

from moorage_common.contracts.model import Contract
from moorage_common.contracts.signals import SignalBatch

BASELINE = -1
"""The step before the first: the candidate runs and gets nothing, stable's requests are counted."""


class BatchEntry(Contract):
    """Requests as one router sent them, `bad_keys` included: the judge drops those that it has seen."""

    kind: Literal["batch"] = "batch"
    batch: SignalBatch


class Label(Contract):
    """What came back about one answer of `version`; of numbers the `loss`, else whether it was `wrong`.

    `other_wrong` and `other_loss` are of the other version's answer to a copy of the same request, where one was made.
    """

    version: int
    wrong: bool | None = None
    loss: float | None = None
    other_wrong: bool | None = None
    other_loss: float | None = None


class LabelsEntry(Contract):
    """Labels in the order in which they settled; `settled_to` is the number of the last one."""

    kind: Literal["labels"] = "labels"
    labels: list[Label]
    settled_to: int


class StepEntry(Contract):
    """A step begins: `BASELINE`, one of the policy's steps, or (their number) the guard. Shares are per cent."""

    kind: Literal["step"] = "step"
    step: int = Field(ge=BASELINE)
    weight: float = 0.0
    stratum_ring: str | None = None
    shadow: float = 0.0


Entry = BatchEntry | LabelsEntry | StepEntry

_ENTRIES: Mapping[str, TypeAdapter[Any]] = {
    "batch": TypeAdapter(BatchEntry),
    "labels": TypeAdapter(LabelsEntry),
    "step": TypeAdapter(StepEntry),
}


def parse_entry(kind: str, entry: Mapping[str, Any]) -> Entry:
    """An entry as it was kept.

    Raises:
        ValueError: `kind` is none of "batch", "labels", "step", or the entry does not read as one.
    """
    if kind not in _ENTRIES:
        message = f"an entry is one of {', '.join(_ENTRIES)}, not {kind!r}"
        raise ValueError(message)
    read: Entry = _ENTRIES[kind].validate_python(dict(entry))
    return read
