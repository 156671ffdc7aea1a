"""Labels for what was answered: what is sent and what it came to. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from moorage_common.contracts.model import Contract
from moorage_sdk.answer import Answer
from moorage_sdk.errors import SdkError
from moorage_sdk.retry import Repeat
from moorage_sdk.wire import Call, Reply, to_json

AT_ONCE = 1000
"""Labels in one call."""
_FIELDS = ("label", "correct", "loss")

Label = Mapping[str, Any]
"""`{"id": <request id>}` with `label`, `correct` or `loss`."""


class RefusedLabel(Contract):
    """A label that was not taken: `index` is its place among those given, `code` is stable, `error` says why."""

    index: int
    id: str
    code: str
    error: str


class FeedbackTaken(Contract):
    """What became of labels: `accepted` of them are kept; a refused one costs the others nothing."""

    accepted: int = 0
    refused: list[RefusedLabel] = []


@dataclass(frozen=True, slots=True)
class FeedbackCall:
    """One call; `start` is the place of its first label."""

    call: Call
    start: int

    def read(self, reply: Reply) -> FeedbackTaken:
        found = FeedbackTaken.model_validate(reply.json())
        refused = [one.model_copy(update={"index": one.index + self.start}) for one in found.refused]
        return found.model_copy(update={"refused": refused})


def together(first: FeedbackTaken, second: FeedbackTaken) -> FeedbackTaken:
    return FeedbackTaken(accepted=first.accepted + second.accepted, refused=[*first.refused, *second.refused])


def feedback_calls(
    name: str, answers: str | Answer | Label | Iterable[Label], said: Mapping[str, Any], timeout_s: float | None
) -> Iterator[FeedbackCall]:
    """Calls for the labels given. `said` is the label, where `answers` is one answer.

    Raises:
        SdkError: an answer without an id; labels of no form.
    """
    items = [_item(one) for one in labels_of(answers, said)]
    for start in range(0, len(items), AT_ONCE):
        yield FeedbackCall(_call(name, items[start : start + AT_ONCE], timeout_s), start)


def _call(name: str, items: list[dict[str, Any]], timeout_s: float | None) -> Call:
    """Sent again it is no second label, so it may be, like what only reads."""
    try:
        body = to_json({"feedback": items} if len(items) > 1 else items[0])
    except (TypeError, ValueError) as error:
        raise SdkError(f"a label is a string, a finite number or a boolean ({error})") from error
    headers = {"content-type": "application/json"}
    return Call("POST", f"/v2/models/{name}/feedback", headers, body, Repeat.READS, timeout_s=timeout_s)


def labels_of(answers: Any, said: Mapping[str, Any]) -> Iterable[Label]:
    """What was given, as mappings.

    Raises:
        SdkError: an answer without an id, a label beside several answers, or none beside one.
    """
    given = {field: value for field, value in said.items() if value is not None}
    if isinstance(answers, Answer):
        answers = answers.request_id
        if not answers:
            raise SdkError("this answer has no request id: it did not come through Moorage's router")
    if isinstance(answers, str):
        if not given:
            raise SdkError("say what was right: label=..., correct=True or False, or loss=...")
        return [{"id": answers, **given}]
    if given:
        raise SdkError("with several answers each brings its own: [{'id': ..., 'label': ...}, ...]")
    if isinstance(answers, Mapping):
        return [answers]
    if hasattr(answers, "to_dict") and hasattr(answers, "columns"):
        records: list[Label] = answers.to_dict("records")
        return records
    return list(answers)


def _item(label: Any) -> dict[str, Any]:
    """One label as it is sent: fields without a value are left out, numpy's scalars are Python's."""
    if not isinstance(label, Mapping):
        raise SdkError(f"{label!r:.60} is no label; give {{'id': <request id>, 'label': <the truth>}}")
    found = {"id": label.get("id"), **{field: label.get(field) for field in _FIELDS}}
    return {field: plain for field, value in found.items() if (plain := _plain(value)) is not None}


def _plain(value: Any) -> Any:
    """None for what a table has where there is nothing."""
    if hasattr(value, "item") and getattr(value, "size", 1) == 1:
        value = value.item()
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            raise SdkError("a label of bytes is UTF-8 text") from None
    return None if isinstance(value, float) and value != value else value  # noqa: PLR0124 - NaN
