"""What bench/kills.py tells of its kills: pure functions of the kills and of the requests' outcomes."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from steady import Outcome

BEFORE_S = 0.5
"""A request that began this long before a kill may have been in flight."""


class Killed(Protocol):
    """What is needed of a kill; see `kills.Kill`."""

    at: float
    streams: list[str]
    without_sibling: list[str]
    noticed_s: float | None
    recovered_s: float
    placed_twice: int
    leaked: list[str]
    restarted: list[str]
    retries: dict[str, float]


def by_code(lost: Sequence[Outcome]) -> dict[str, int]:
    """Counts by stream, status and code."""
    return dict(Counter(f"{o.stream} {o.status} {o.code}" for o in lost))


def during(kill: Killed, kills: Sequence[Killed], outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Requests that belong to `kill`: begun since just before it and before the next."""
    later = [other.at for other in kills if other.at > kill.at]
    until = min(later, default=float("inf"))
    return [o for o in outcomes if kill.at - BEFORE_S <= o.begun < until - BEFORE_S]


def losses(kill: Killed, kills: Sequence[Killed], outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Requests without the model's answer, by stream, status and code."""
    return by_code([o for o in during(kill, kills, outcomes) if not o.ok])


def times(title: str, mine: Sequence[Killed], kills: Sequence[Killed], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """One kind's line of the table of seconds: until the scheduler knew, until every replica was ready, until the first
    answer to a request sent since the kill, and the slowest answer."""
    asked = [(kill, during(kill, kills, outcomes)) for kill in mine]
    slowest = [max((o.ended - o.begun for o in own if o.ok), default=0.0) for _kill, own in asked]
    measured = {
        "noticed": [kill.noticed_s for kill in mine if kill.noticed_s is not None],
        "all ready": [kill.recovered_s for kill in mine],
        "first answer": [_first_answer(kill, own) for kill, own in asked],
        "slowest answer": slowest,
    }
    found: dict[str, Any] = {"killed": title, "times": len(mine)}
    for name, values in measured.items():
        found |= {f"{name} p50": _at(50, values), f"{name} p95": _at(95, values)}
    return found


def kept(title: str, mine: Sequence[Killed], kills: Sequence[Killed], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """One kind's line of the table of costs. A deployment that lost all its replicas has no sibling to retry on."""
    asked = [(kill, during(kill, kills, outcomes)) for kill in mine]
    lost = [(kill, o) for kill, own in asked for o in own if not o.ok]
    alone = [o for kill, o in lost if o.stream in kill.without_sibling]
    return {
        "killed": title,
        "requests": sum(len(own) for _kill, own in asked),
        "retried": round(sum(sum(kill.retries.values()) for kill in mine)),
        "lost, with a sibling": len(lost) - len(alone),
        "lost, without": len(alone),
        "which": ", ".join(f"{count} x {what}" for what, count in by_code([o for _kill, o in lost]).items()) or "-",
        "placed twice": sum(kill.placed_twice for kill in mine),
        "leaked": sum(len(kill.leaked) for kill in mine),
        "others restarted": sum(len(kill.restarted) for kill in mine),
    }


def _first_answer(kill: Killed, own: Sequence[Outcome]) -> float:
    """Seconds from the kill to the first answer to a request that was sent since; of the deployment that has none the
    longest where several were hit."""
    hit = kill.streams or sorted({o.stream for o in own})
    firsts = [
        min((o.ended for o in own if o.ok and o.stream == model and o.begun >= kill.at), default=np.inf)
        for model in hit
    ]
    return float(max(firsts)) - kill.at


def _at(percent: int, values: Sequence[float]) -> float | str:
    return round(float(np.percentile(values, percent)), 2) if values else "-"
