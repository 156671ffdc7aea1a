"""Rollouts in words: numbers, spans and states as people read them, and a rollout as plain lines."""

import re
import time
from collections.abc import Sequence
from typing import Any

from moorage_common.contracts.rollouts import RolloutPolicy, Step
from moorage_sdk.pictures.moves import plain
from moorage_sdk.rollouts_answers import Rollout, SafetyEvidence, SignalEvidence, Verdict

_NUMBERS = re.compile(r"\d[\d.,]*")
WIDE = 2000
"""A sentence is cut here."""


def percent(part: float, whole: float) -> str:
    """3 of 200 -> `1.5 %`; two digits are kept of small shares."""
    if whole <= 0:
        return "-"
    share = 100 * part / whole
    digits = 0 if share in (0, 100) else 1 if share >= 10 else 2 if share >= 0.1 else 3
    return f"{share:.{digits}f} %"


def count(number: float) -> str:
    """`9,412`, from a million on `1.24 M`."""
    return f"{number / 1e6:.2f} M" if number >= 1e6 else f"{number:,.0f}"


def span(seconds: float) -> str:
    """`45 s`, `4 min 12 s`, `2 h 5 min`, `3 d 4 h`."""
    whole = max(0, round(seconds))
    for size, unit, rest, below in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            left = whole % size // rest
            return f"{whole // size} {unit}" + (f" {left} {below}" if left else "")
    return f"{whole} s"


def clock(at: float, now: float) -> str:
    """The local time; with its day where that is not today."""
    then = time.localtime(at)
    same_day = then[:3] == time.localtime(now)[:3]
    return time.strftime("%H:%M:%S" if same_day else "%b %d %H:%M", then)


def state_of(found: Rollout) -> str:
    """A few words: `at 25 %`, `holds at 5 %`, `promoted, guarded`."""
    at = f"at {found.weight:g} %"
    words = {
        "pending": "no traffic yet",
        "baking": at,
        "hold": f"holds {at}",
        "paused": f"paused {at}",
        "guarded": "promoted, guarded",
        "done": "done",
        "rolled_back": "rolled back",
        "aborted": "aborted",
    }
    return words[found.state]


def heading(found: Rollout) -> str:
    return f"{plain(found.model)}: version {found.candidate} in the place of {found.stable}"


def stand(found: Rollout, last: str = "") -> str:
    """One line: which rollout, where it is, why. `last` is what was said just before: it is not said twice."""
    reason = plain(found.reason, WIDE)
    return f"{heading(found)}: {state_of(found)}{f': {reason}' if reason and reason != last else ''}"


def shape(text: str) -> str:
    """The text without its numbers: the same for what differs in them alone."""
    return _NUMBERS.sub("#", text)


def took(found: Rollout, now: float) -> str:
    return span((now if found.finished_at is None else found.finished_at) - found.started_at)


def outlook(found: Rollout) -> str:
    """What the step still takes; empty where nobody can tell, or nothing is waited for."""
    if found.is_final or found.state == "paused":
        return ""
    if found.step < 0 and found.needed is None and found.eta_s is None:
        first, seen = found.policy.baseline_requests, found.evidence.baseline_requests
        return f"first {count(first)} requests of version {found.stable} are counted, {count(seen)} so far"
    needed = ""
    if found.needed and not found.reason:
        needed = f"still takes about {count(found.needed)} more requests of version {found.candidate}"
    then = "ends" if found.state == "guarded" else "goes on"
    eta = f"{then} in about {span(found.eta_s)}" if found.eta_s is not None else ""
    return ", ".join(part for part in (needed, eta) if part)


def step_words(step: Step) -> str:
    if step.shadow:
        return f"shadow {step.shadow:g} %"
    return f"ring {plain(step.ring)} {step.weight:g} %" if step.ring else f"{step.weight:g} %"


def stages(policy: RolloutPolicy) -> list[str]:
    """The steps, then the guard, as `Rollout.step` counts them."""
    guard = f"guard {span(policy.guard.for_s)}" if policy.guard.for_s else "100 %"
    return [*(step_words(step) for step in policy.steps), guard]


def stage_of(found: Rollout) -> int:
    """The stage it is at, or was at last: -1 before the first, the number of stages once it is done."""
    return len(found.policy.steps) + 1 if found.state == "done" else found.step


def sentence_of(verdict: Verdict) -> str:
    return plain(verdict.sentence or verdict.kind.replace("_", " "), WIDE)


def lines(found: Rollout, verdicts: Sequence[Verdict], now: float) -> list[str]:
    """All of it, a fact a line, for logs and pipes."""
    told = [f"{stand(found)} ({took(found, now)})"]
    if expected := outlook(found):
        told.append(expected)
    told += [_signal(found, one) for one in found.evidence.signals]
    told += [_safety(found, one) for one in found.evidence.safety if not found.is_final]
    return [*told, *(verdict_line(verdict, now) for verdict in verdicts)]


def verdict_line(verdict: Verdict, now: float) -> str:
    return f"{clock(verdict.at, now)} {sentence_of(verdict)}"


def counts(one: SignalEvidence) -> tuple[tuple[int, int], tuple[int, int]]:
    """Bad of all, stable's and the candidate's.

    Of requests that both answered, those that one alone got wrong; of latency, those beyond the quantile that speaks
    most against the candidate.
    """
    if (most := _quantile(one)) is not None:
        slow = int(most["stable_slow"]), int(most["candidate_slow"])
        return (slow[0], one.stable_n), (slow[1], one.candidate_n)
    pairs = one.detail.get("pairs")
    if pairs:
        alone = int(one.detail["stable_alone_worse"]), int(one.detail["candidate_alone_worse"])
        return (alone[0], int(pairs)), (alone[1], int(pairs))
    return (one.stable_bad, one.stable_n), (one.candidate_bad, one.candidate_n)


def name_of(one: SignalEvidence) -> str:
    """`errors`, `latency p95`."""
    most = _quantile(one)
    return plain(one.name) if most is None else f"{plain(one.name)} p{100 * float(most['quantile']):g}"


def _quantile(one: SignalEvidence) -> dict[str, Any] | None:
    quantiles: list[dict[str, Any]] = one.detail.get("quantiles") or []
    return max(quantiles, key=lambda each: float(each["log_e"] or 0.0), default=None)


def unseen(found: Rollout, one: SignalEvidence) -> str:
    """Why there is nothing to show of a signal; empty where there is."""
    (_, stable), (_, candidate) = counts(one)
    if one.state == "learning":
        return f"learns what is usual of version {found.stable}"
    if not stable and not candidate:
        return "no label has come back yet" if one.name == "quality" else "nothing seen yet"
    return ""


def _signal(found: Rollout, one: SignalEvidence) -> str:
    if told := unseen(found, one):
        return f"{name_of(one)}: {told}"
    versions = (
        f"version {number} {percent(bad, of)} bad of {count(of)}"
        for number, (bad, of) in zip((found.stable, found.candidate), counts(one), strict=True)
    )
    return f"{name_of(one)}: {', '.join(versions)}; {100 * one.share:.0f} % of the evidence that it acts on"


def _safety(found: Rollout, one: SafetyEvidence) -> str:
    needed = f", about {count(one.needed_requests)} more requests needed" if one.needed_requests else ""
    return f"{plain(one.name)}: {100 * one.share:.0f} % of the evidence that version {found.candidate} is safe{needed}"
