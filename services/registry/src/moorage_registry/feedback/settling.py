"""What a label says of an answer. Pure."""

from dataclasses import dataclass

from moorage_common.contracts.feedback import Feedback, Output
from moorage_common.contracts.rollouts import FeedbackPolicy

_TRUE, _FALSE = frozenset({"true", "True"}), frozenset({"false", "False"})


@dataclass(frozen=True, slots=True)
class Settled:
    """An answer held against its label. Of numbers there is the `loss`, and `wrong` where the policy has a tolerance;
    else there is `wrong`. `other_*` say the same of the other version's answer to a copy of the request."""

    wrong: bool | None
    loss: float | None = None
    other_wrong: bool | None = None
    other_loss: float | None = None


def told(feedback: Feedback) -> Settled | None:
    """What a caller found itself; None where there is a label, which counts before it."""
    if feedback.label is not None:
        return None
    return Settled(None if feedback.correct is None else not feedback.correct, _loss_of(feedback))


def _loss_of(feedback: Feedback) -> float | None:
    return feedback.loss if feedback.correct is None else None


def label_text(label: str | float | bool) -> str:
    """A label as it is kept: a string as it came, `true` and `false`, whole numbers without a point."""
    if isinstance(label, bool):
        return "true" if label else "false"
    if isinstance(label, str):
        return label
    return str(int(label)) if label.is_integer() and abs(label) < 2**63 else repr(label)


def settle(policy: FeedbackPolicy, label: str, output: Output, other: Output | None = None) -> Settled:
    """Hold an answer, and the other version's where there is one, against the label."""
    wrong, loss = _compare(policy, label, output)
    other_wrong, other_loss = (None, None) if other is None else _compare(policy, label, other)
    return Settled(wrong, loss, other_wrong, other_loss)


def _compare(policy: FeedbackPolicy, label: str, output: Output) -> tuple[bool | None, float | None]:
    """Wrong, and the absolute error of numbers.

    Numbers are compared where the policy or, left to itself, the answer says so; a label that is none is wrong.
    """
    if policy.kind == "number" or (policy.kind == "auto" and output.kind == "number"):
        expected, given = _number(label), _number(output.value)
        if expected is None or given is None:
            return True, None
        loss = abs(expected - given)
        return (loss > policy.tolerance if policy.tolerance > 0 else None), loss
    return _class(label) != _class(output.value), None


def _number(text: str) -> float | None:
    """A finite number, 1 and 0 for `true` and `false`; None for anything else."""
    if text in _TRUE:
        return 1.0
    if text in _FALSE:
        return 0.0
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) <= 1e300 else None


def _class(text: str) -> str:
    """One spelling for what is one class: 3, 3.0 and "3"; true and 1."""
    if text in _TRUE:
        return "1"
    if text in _FALSE:
        return "0"
    whole, point, rest = text.partition(".")
    return whole if point and not rest.strip("0") and whole.lstrip("-").isdecimal() else text
