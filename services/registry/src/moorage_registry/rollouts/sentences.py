"""Sentences of what the controller and people do to a rollout, with their numbers. Pure."""

import re

from moorage_common.contracts.rollouts import RolloutPolicy
from moorage_registry.rollouts.entries import BASELINE
from moorage_registry.rollouts.judge import Evidence
from moorage_registry.rollouts.weights import guard_of, weight_pct

SENTENCE_MOST = 2000
_NUMBERS = re.compile(r"\d[\d.,]*")


def plain(sentence: str) -> str:
    """The sentence without control characters, and not longer than people read."""
    told = "".join(one if one.isprintable() else "\ufffd" for one in sentence[: SENTENCE_MOST + 1])
    return told if len(told) <= SENTENCE_MOST else f"{told[:SENTENCE_MOST]}\u2026"


def shape(sentence: str) -> str:
    """The sentence without its numbers: the same for what differs in them alone."""
    return _NUMBERS.sub("#", sentence)


def started(stable: int, candidate: int, policy: RolloutPolicy) -> str:
    weights = ", ".join(f"{one.weight or one.shadow:g} %" for one in policy.steps)
    return (
        f"Version {candidate} is rolled out in place of version {stable} by {weights}; a version that is no worse is "
        f"rolled back with a chance of {policy.alpha:.2%} at most"
    )


def begun(policy: RolloutPolicy, step: int, candidate: int, evidence: Evidence) -> str:
    """Why `step`, which is no guard, begins."""
    one = policy.steps[step]
    if one.shadow:
        share = f"a copy of {one.shadow:g} % of the requests"
    elif one.ring is not None:
        share = f"{one.weight:g} % of the requests of ring {one.ring}"
    else:
        share = f"{one.weight:g} % of the requests"
    return f"Step {step + 1} of {len(policy.steps)}: version {candidate} gets {share}, after {_seen(evidence)}"


def promoted(policy: RolloutPolicy, candidate: int, stable: int, evidence: Evidence) -> str:
    guard = guard_of(policy)
    return (
        f"Version {candidate} is promoted and gets {weight_pct(policy, guard):g} % of the requests, after "
        f"{_seen(evidence)}; version {stable} stays for {policy.guard.for_s:,.0f} s"
    )


def done(candidate: int, stable: int, evidence: Evidence) -> str:
    return (
        f"Version {candidate} has taken the place of version {stable}: {evidence.candidate_requests:,} requests in the "
        "guard spoke for no rollback"
    )


def back(stable: int, cause: str) -> str:
    return f"{cause.rstrip('.')}. All traffic is back on version {stable}"


def short_of_replicas(candidate: int, ready: int, wanted: int, no_room: str | None) -> str:
    text = f"{ready} of the {wanted} replicas are ready that version {candidate} needs for its next share"
    return f"{text}: {no_room}" if no_room else text


BUS_AWAY = "NATS is away: nothing is heard of the requests, and no change of traffic would reach the routers"


def _seen(evidence: Evidence) -> str:
    if evidence.step <= BASELINE:
        return f"{evidence.baseline_requests:,} requests of stable to compare with"
    passed = [one.name for one in evidence.safety if one.passed]
    lacking = [one.name for one in evidence.safety if not one.passed]
    text = f"{evidence.candidate_requests:,} requests of it"
    if passed:
        text += f" that show its {' and '.join(passed)} within the margin"
    if lacking or not evidence.safety:
        text += f"; without evidence of its {' and '.join(lacking) or 'safety'}, as the policy allows"
    return text
