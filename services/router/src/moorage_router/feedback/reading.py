"""From a body of labels to feedback of answers: what is taken, and what is refused and why. Pure.

Nothing here may end in a log or a metric: labels are the callers' data.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import orjson

from moorage_common.contracts.feedback import OUTPUT_BYTES, Feedback, FeedbackChunk
from moorage_common.contracts.request_id import RequestId, parse_request_id
from moorage_common.errors import BadRequest, TooLarge, Unprocessable

MOST_ITEMS = 1000
BODY_BYTES = 2 * 1024 * 1024
"""A thousand ids with labels as long as they may be, and room."""
_ID_CHARACTERS = 512
_MESSAGE_BYTES = 700_000
"""Of the megabyte that a message may have."""
_COST_BYTES = 512
"""Of a label in a message, the label itself apart."""
_ESCAPED = 6
"""Bytes that JSON may make of one."""
_LARGEST = 1e300


@dataclass(frozen=True, slots=True)
class Refused:
    """An item that was not taken. `code` is stable; `error` says what to do."""

    index: int
    id: str
    code: str
    error: str


@dataclass(slots=True)
class Taken:
    """What became of a body's items, so far."""

    feedback: dict[str, Feedback] = field(default_factory=dict)
    refused: list[Refused] = field(default_factory=list)

    def answer(self) -> dict[str, object]:
        """As the caller is told."""
        refused = [{"index": one.index, "id": one.id, "code": one.code, "error": one.error} for one in self.refused]
        return {"accepted": len(self.feedback), "refused": refused}


def items_of(body: bytes) -> list[object]:
    """The items of one call. Raises BadRequest, or TooLarge for more than MOST_ITEMS."""
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        said = None
    if not isinstance(said, dict) or ("feedback" in said and not isinstance(said["feedback"], list)):
        raise _unreadable()
    items: list[object] = said.get("feedback", [said])
    if not items:
        raise _unreadable()
    if len(items) > MOST_ITEMS:
        message = f"{len(items)} labels at once, at most {MOST_ITEMS} are taken; send them in several calls"
        raise TooLarge(message, code="too_many_labels")
    return items


def _unreadable() -> BadRequest:
    message = 'feedback is {"id": <Moorage-Request-Id>, "label": <the truth>} or {"feedback": [<several of these>]}'
    return BadRequest(message, code="feedback_unreadable")


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads items of one tenant about one model. `secret` is that of request ids."""

    secret: bytes
    tenant: str
    model: str

    def read(self, index: int, item: object, at: float, taken: Taken) -> None:
        """Take item `index`, which came at `at` (seconds since 1970), or note why not."""
        text = item.get("id") if isinstance(item, dict) else None
        if not isinstance(item, dict) or not isinstance(text, str):
            taken.refused.append(Refused(index, "", "id_missing", "give the answer's Moorage-Request-Id as `id`"))
            return
        rid = self._known(text)
        if rid is None:
            error = f"no answer of {self.model} to this tenant has this id; send Moorage-Request-Id as it came"
            taken.refused.append(Refused(index, text[:_ID_CHARACTERS], "id_unknown", error))
            return
        fault = _fault(item)
        if fault is None and rid.ulid in taken.feedback:
            fault = "label_repeated", "this answer has a label in the same call already; the first one counts"
        if fault is not None:
            taken.refused.append(Refused(index, text, *fault))
            return
        label = item.get("label")
        taken.feedback[rid.ulid] = Feedback(
            tenant=self.tenant, model=self.model, version=rid.version, ulid=rid.ulid, at=at,
            label=str(label) if isinstance(label, int) and not isinstance(label, bool) else label,
            correct=item.get("correct"), loss=item.get("loss"),
        )  # fmt: skip

    def _known(self, text: str) -> RequestId | None:
        """What the id says, where this tenant was given it for this model."""
        if len(text) > _ID_CHARACTERS or not text.isascii():
            return None
        rid = parse_request_id(self.secret, self.tenant, text)
        return rid if rid is not None and rid.model == self.model else None


def _fault(item: dict[str, object]) -> tuple[str, str] | None:
    """Code and text of what is wrong with an item's label, or None."""
    label, correct, loss = item.get("label"), item.get("correct"), item.get("loss")
    if label is None and correct is None and loss is None:
        return "label_missing", "give the true `label`, or whether the answer was `correct`, or its `loss`"
    if isinstance(label, str):
        if len(label.encode()) > OUTPUT_BYTES or "\0" in label:
            return "label_invalid", f"a label is at most {OUTPUT_BYTES} bytes of text without NUL"
    elif label is not None and not _is_number(label) and not isinstance(label, bool):
        return "label_invalid", "a label is a string, a finite number or a boolean"
    if correct is not None and not isinstance(correct, bool):
        return "label_invalid", "`correct` is true or false"
    if loss is not None and not _is_number(loss):
        return "label_invalid", "`loss` is a finite number"
    return None


def _is_number(value: object) -> bool:
    """Whether it is a number that every part of the platform can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST


def nothing_taken(refused: Sequence[Refused]) -> Unprocessable:
    """The answer where every item was refused: that of the first one, by its place."""
    first = refused[0]
    place = f"number {first.index} of {len(refused)}" + (f", {first.id[:200]}" if first.id else "")
    return Unprocessable(f"no label was taken: {first.error} ({place})", code="feedback_refused")


def chunks_of(feedback: Sequence[Feedback]) -> Iterator[FeedbackChunk]:
    """The messages that carry them, each smaller than a message may be; the same answers make the same ids."""
    part: list[Feedback] = []
    size = 0
    for one in feedback:
        cost = _COST_BYTES + (_ESCAPED * len(one.label.encode()) if isinstance(one.label, str) else 0)
        if part and size + cost > _MESSAGE_BYTES:
            yield _chunk(part)
            part, size = [], 0
        part.append(one)
        size += cost
    if part:
        yield _chunk(part)


def _chunk(part: list[Feedback]) -> FeedbackChunk:
    named = "\n".join([part[0].tenant, part[0].model, *(one.ulid for one in part)])
    return FeedbackChunk(chunk_id=hashlib.sha256(named.encode()).hexdigest()[:32], feedback=part)
