"""A rollout as a picture for a terminal: the weight over the steps, the evidence against and for, the last verdicts."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from moorage_sdk.pictures.moves import plain
from moorage_sdk.pictures.rollout_words import (
    WIDE,
    clock,
    count,
    counts,
    heading,
    name_of,
    outlook,
    percent,
    sentence_of,
    span,
    stage_of,
    stages,
    state_of,
    took,
    unseen,
)
from moorage_sdk.rollouts_answers import Rollout, SafetyEvidence, SignalEvidence, Verdict

_EIGHTHS = " ▏▎▍▌▋▊▉"
_FREE = "·"
_NAME, _VERSION, _SHARE = 11, 18, 8
_BOLD, _GREY, _RED, _GREEN, _YELLOW, _BLUE = "1", "38;5;245", "38;5;203", "38;5;71", "38;5;220", "38;5;33"
_OF_STATE = {
    "pending": _BLUE, "baking": _BLUE, "hold": _YELLOW, "paused": _YELLOW, "guarded": _GREEN, "done": _GREEN,
    "rolled_back": _RED, "aborted": _YELLOW,
}  # fmt: skip
_HANGING = 10


@dataclass(frozen=True, slots=True)
class Frame:
    """What to draw into: cells and lines, and whether the terminal shows colours."""

    width: int = 80
    height: int = 24
    colour: bool = False


@dataclass(frozen=True, slots=True)
class _Pen:
    frame: Frame

    def paint(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self.frame.colour and text.strip() else text

    def bar(self, share: float, width: int, colour: str) -> str:
        """Filled to an eighth of a cell; anything above nothing shows."""
        eighths = min(width * 8, max(round(share * width * 8), share > 0))
        full, part = divmod(eighths, 8)
        filled = "█" * full + (_EIGHTHS[part] if part else "")
        return self.paint(filled, colour) + self.paint(_FREE * (width - len(filled)), _GREY)


def draw(found: Rollout, verdicts: Sequence[Verdict], now: float, frame: Frame = Frame(), problem: str = "") -> str:
    """At most `frame.height` lines: the oldest verdicts are left out where they do not fit.

    Args:
        found: the rollout as it was last seen.
        verdicts: oldest first.
        now: seconds since 1970.
        frame: what to draw into.
        problem: why the registry does not answer; what is drawn is older then.
    """
    pen = _Pen(frame)
    last = sentence_of(verdicts[-1]) if verdicts else ""
    lines = [*_head(found, now, pen, problem, last), "", *_weights(found, now, pen)]
    lines += _evidence(found, pen)
    room = frame.height - len(lines) - 1
    told = _verdicts(verdicts, now, pen, room)
    return "\n".join([*lines, *(["", *told] if told else [])]) + "\n"


def _head(found: Rollout, now: float, pen: _Pen, problem: str, last: str) -> list[str]:
    """`last` is what the last verdict says: the reason is not said twice."""
    left, right = heading(found), f"{state_of(found)}, {took(found, now)}"
    width, colour = pen.frame.width, _OF_STATE[found.state]
    gap = width - len(left) - len(right)
    if gap >= 2:
        lines = [pen.paint(left, _BOLD) + " " * gap + pen.paint(right, colour)]
    else:
        lines = [pen.paint(left[:width], _BOLD), pen.paint(right[:width], colour)]
    if (reason := plain(found.reason, WIDE)) and reason != last:
        lines += _cut(_wrapped(reason, width), 3)
    if expected := outlook(found):
        lines += [pen.paint(line, _GREY) for line in _wrapped(expected, pen.frame.width)]
    if problem:
        said = f"the registry does not answer, this is what it last said: {plain(problem, WIDE)}"
        lines += [pen.paint(line, _YELLOW) for line in _cut(_wrapped(said, width), 2)]
    return lines


def _weights(found: Rollout, now: float, pen: _Pen) -> list[str]:
    width = pen.frame.width - _NAME - _SHARE - 1
    share = 1.0 if found.state == "done" else found.weight / 100
    colour = _OF_STATE[found.state] if not found.is_final or found.state == "done" else _GREY
    bar = pen.bar(share, width, colour)
    name = f"version {found.candidate}" if found.candidate < 10 else f"v{found.candidate}"
    shown = f"{name:<{_NAME}.{_NAME}} {bar}{f'{round(100 * share, 2):g} %':>{_SHARE}}"
    return [shown, " " * (_NAME + 1) + _track(found, now, pen, pen.frame.width - _NAME - 1)]


def _track(found: Rollout, now: float, pen: _Pen, width: int) -> str:
    """The stages; those that do not fit are left out from the ends, the present one last."""
    names, here = stages(found.policy), stage_of(found)
    if 0 <= here < len(names) and found.step_began_at is not None and not found.is_final:
        names[here] += f" for {span(now - found.step_began_at)}"
    present = "✗" if found.state in ("rolled_back", "aborted") else "●"
    marks = ["✓" if number < here else present if number == here else "○" for number in range(len(names))]
    first, last = 0, len(names)
    while last - first > 1 and _length(names[first:last], first > 0, last < len(names)) > width:
        if here - first > last - 1 - here or last - 1 <= max(here, 0):
            first += 1
        else:
            last -= 1
    shown = [
        pen.paint(f"{marks[number]} {names[number]}"[: width - 8], _BOLD if number == here else _GREY)
        for number in range(first, last)
    ]
    return "   ".join([*(["…"] if first else []), *shown, *(["…"] if last < len(names) else [])])


def _length(names: Sequence[str], *cut: bool) -> int:
    return sum(len(name) + 2 for name in names) + 3 * (len(names) - 1) + 4 * sum(cut)


def _evidence(found: Rollout, pen: _Pen) -> list[str]:
    lines, evidence = [], found.evidence
    if evidence.signals:
        versions = "".join(f"{f' version {number}':<{_VERSION}}" for number in (found.stable, found.candidate))
        title = f"{'':<{_NAME}} {versions}evidence against version {found.candidate}"
        lines += [
            "",
            pen.paint(title[: pen.frame.width], _GREY),
            *(_signal(found, one, pen) for one in evidence.signals),
        ]
    if evidence.safety and not found.is_final and found.state != "guarded":
        title = f"{'':<{_NAME}} {'':<{2 * _VERSION}}evidence that it is safe"
        lines += ["", pen.paint(title[: pen.frame.width], _GREY), *(_safety(one, pen) for one in evidence.safety)]
    return lines


def _signal(found: Rollout, one: SignalEvidence, pen: _Pen) -> str:
    name = f"{name_of(one):<{_NAME}.{_NAME}} "
    if told := unseen(found, one):
        return name + pen.paint(told, _GREY)
    cells = "".join(_rate(bad, of) for bad, of in counts(one))
    return name + cells + _measured(one.share, pen, _RED if one.share >= 0.5 else _YELLOW)


def _safety(one: SafetyEvidence, pen: _Pen) -> str:
    needed = f"{count(one.needed_requests)} requests more" if one.needed_requests else ""
    return f"{plain(one.name):<{_NAME}.{_NAME}} {needed:<{2 * _VERSION}}{_measured(one.share, pen, _GREEN)}"


def _rate(bad: int, of: int) -> str:
    told = f"{percent(bad, of):>7} of {count(of)}" if of else f"{'-':>7}"
    return f"{told:<{_VERSION}}"


def _measured(share: float, pen: _Pen, colour: str) -> str:
    width = max(4, pen.frame.width - _NAME - 1 - 2 * _VERSION - _SHARE)
    return pen.bar(share, width, colour) + f"{100 * share:.0f} %".rjust(_SHARE)


def _verdicts(verdicts: Sequence[Verdict], now: float, pen: _Pen, room: int) -> list[str]:
    lines: list[str] = []
    for verdict in reversed(verdicts):
        at = f"{clock(verdict.at, now):<{_HANGING}}"
        told = _wrapped(sentence_of(verdict), pen.frame.width - max(_HANGING, len(at)))
        block = [(pen.paint(at, _GREY) if number == 0 else " " * len(at)) + line for number, line in enumerate(told)]
        if len(lines) + len(block) > room:
            break
        lines = [*block, *lines]
    return lines


def _cut(lines: list[str], most: int) -> list[str]:
    return lines if len(lines) <= most else [*lines[: most - 1], f"{lines[most - 1][:-1]}…"]


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(20, width)) or [""]
