"""What a rollout does next: a pure decision on what is known, a case a class."""

import math
from dataclasses import dataclass

from moorage_common.contracts.rollouts import FINAL, RolloutPolicy, RolloutState, Step
from moorage_registry.rollouts.entries import BASELINE
from moorage_registry.rollouts.judge.evidence import Evidence, Failure

LABELS_WAITED_FOR_S = 7 * 86_400.0
"""Whatever they say of their delay, a guard lasts no longer for labels: whoever has an old answer's id may send one."""


@dataclass(frozen=True)
class Rollout:
    """A rollout as far as it decides what is next.

    Attributes:
        step: -1 before the first, `len(policy.steps)` in the guard.
        step_began_at: seconds, in the clock of `decide`'s `now`; when it was started while at -1.
        resumes_as: the state from before it was paused.
        alerted: signals about which an `Alert` was given already.
    """

    state: RolloutState
    step: int
    step_began_at: float
    policy: RolloutPolicy
    resumes_as: str = ""
    alerted: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Facts:
    """What is the case outside of the evidence.

    Attributes:
        candidate_wanted: replicas of the candidate that there is room for, up to `policy.candidate_hosts`.
        stable_wanted: replicas that answer all of the traffic by themselves.
        failed: why the candidate cannot run (it does not load, crashes in a loop, has another digest), as a sentence.
        no_room: what does not fit beside stable's replicas, as a sentence.
        skew: how the candidate's feature service differs from what it pinned, as a sentence.
        label_delay_s: 90 % of the labels come back within so many seconds, where known: the guard lasts as long.
    """

    candidate_ready: int
    candidate_wanted: int
    stable_ready: int
    stable_wanted: int
    failed: str | None = None
    no_room: str | None = None
    skew: str | None = None
    label_delay_s: float | None = None


@dataclass(frozen=True)
class Stay:
    """Go on as it is. `needed` requests of the candidate are still wanted, expected within `eta_s`; null: unknown."""

    reason: str
    eta_s: float | None = None
    needed: int | None = None


@dataclass(frozen=True)
class Begin:
    """Begin a step: change the weights."""

    step: int


@dataclass(frozen=True)
class Hold:
    """Stay at these weights and tell people what is waited for. Left as soon as `decide` says otherwise."""

    reason: str
    needed: int | None = None
    eta_s: float | None = None


@dataclass(frozen=True)
class RollBack:
    """All traffic to stable, at once. `signal` is the judge's, or "deterministic"."""

    signal: str
    sentence: str


@dataclass(frozen=True)
class Promote:
    """The last step is passed: begin the guard."""


@dataclass(frozen=True)
class Finish:
    """The guard has ended: the candidate is the stable version now."""


@dataclass(frozen=True)
class Alert:
    """Tell people and go on. Given once a signal, if the caller keeps `Rollout.alerted`."""

    signal: str
    sentence: str


Decision = Stay | Begin | Hold | RollBack | Promote | Finish | Alert


def decide(rollout: Rollout, evidence: Evidence, failure: Failure | None, facts: Facts, now: float) -> Decision:
    """What is next. A pause stops steps, not rollbacks; no data is never a verdict.

    Args:
        failure: what `Judge.failure` says after the same entries as `evidence`.
        now: seconds.
    """
    return _whatever_the_step(rollout, failure, facts) or _by_step(rollout, evidence, failure, facts, now)


def _whatever_the_step(rollout: Rollout, failure: Failure | None, facts: Facts) -> Decision | None:
    if rollout.state in FINAL:
        return Stay("the rollout is over")
    if facts.failed:
        return RollBack("deterministic", facts.failed)
    if failure is not None and failure.action == "roll_back":
        return RollBack(failure.signal, failure.sentence)
    if failure is not None and _is_news(rollout, failure):
        return Alert(failure.signal, failure.sentence)
    return Stay("paused by a person") if rollout.state == "paused" else None


def _by_step(rollout: Rollout, evidence: Evidence, failure: Failure | None, facts: Facts, now: float) -> Decision:
    for_s = now - rollout.step_began_at
    if rollout.step >= len(rollout.policy.steps):
        return _guarded(rollout.policy, facts, for_s)
    if rollout.step == BASELINE:
        return _not_ready(rollout.policy, facts, for_s) or _baseline(rollout.policy, evidence, for_s)
    step = rollout.policy.steps[rollout.step]
    if cause := _cause_to_hold(failure, facts):
        return Hold(cause)
    if for_s < step.at_least_s:
        return Stay(f"a step lasts {step.at_least_s:,.0f} s at least", eta_s=step.at_least_s - for_s)
    return _by_safety(rollout, step, evidence, for_s)


def _is_news(rollout: Rollout, failure: Failure) -> bool:
    """What would hold a step can only be told once the steps are over."""
    tells = failure.action == "alert" or rollout.step >= len(rollout.policy.steps)
    return tells and failure.signal not in rollout.alerted


def _not_ready(policy: RolloutPolicy, facts: Facts, for_s: float) -> Decision | None:
    if facts.skew:
        return Hold(facts.skew)
    if facts.no_room and not (facts.candidate_ready and facts.stable_ready >= facts.stable_wanted):
        return Hold(facts.no_room)
    wanted = 1 if facts.no_room else max(1, facts.candidate_wanted)
    if facts.candidate_ready < wanted:
        ready = f"{facts.candidate_ready} of {wanted} replicas of the candidate are ready"
        if for_s <= policy.ready_within_s:
            return Stay(ready)
        return RollBack("deterministic", f"After {for_s:,.0f} s {ready}; {policy.ready_within_s:,.0f} s are allowed.")
    return Hold(_lacks_stable(facts)) if facts.stable_ready < facts.stable_wanted else None


def _baseline(policy: RolloutPolicy, evidence: Evidence, for_s: float) -> Decision:
    if evidence.baseline_requests < policy.baseline_requests and for_s < policy.baseline_at_most_s:
        return Stay(
            f"{evidence.baseline_requests:,} of {policy.baseline_requests:,} requests of stable seen, to compare with",
            eta_s=policy.baseline_at_most_s - for_s,
        )
    return Begin(0)


def _by_safety(rollout: Rollout, step: Step, evidence: Evidence, for_s: float) -> Decision:
    lacking = [one for one in evidence.safety if not one.passed]
    if evidence.safety and not lacking:
        return _next(rollout)
    needs = [one.needed_requests for one in lacking if one.needed_requests is not None]
    needed = max(needs) if needs and len(needs) == len(lacking) else None
    eta_s = _eta_s(needed, evidence.candidate_requests, for_s)
    reason = _lacks(step, evidence, [one.name for one in lacking], needed)
    if for_s < step.at_most_s:
        return Stay(reason, eta_s, needed)
    return _next(rollout) if rollout.policy.on_no_evidence == "promote" else Hold(reason, needed, eta_s)


def _guarded(policy: RolloutPolicy, facts: Facts, for_s: float) -> Decision:
    lasts_s = max(policy.guard.for_s, min(facts.label_delay_s or 0.0, LABELS_WAITED_FOR_S))
    if for_s >= lasts_s:
        return Finish()
    return Stay(f"guarded for {lasts_s:,.0f} s, with stable kept ready", eta_s=lasts_s - for_s)


def _next(rollout: Rollout) -> Decision:
    last = rollout.step + 1 >= len(rollout.policy.steps)
    return Promote() if last else Begin(rollout.step + 1)


def _cause_to_hold(failure: Failure | None, facts: Facts) -> str | None:
    if failure is not None and failure.action == "hold":
        return failure.sentence
    if facts.skew:
        return facts.skew
    if facts.stable_ready < facts.stable_wanted:
        return facts.no_room or _lacks_stable(facts)
    return None if facts.candidate_ready else "no replica of the candidate is ready"


def _lacks_stable(facts: Facts) -> str:
    return (
        f"{facts.stable_ready} of {facts.stable_wanted} replicas of stable are ready: "
        "it must be able to take all of the traffic back"
    )


def _lacks(step: Step, evidence: Evidence, names: list[str], needed: int | None) -> str:
    share = f"shadow of {step.shadow:g} %" if step.shadow else f"{step.weight:g} %"
    seen = f"{evidence.candidate_requests:,} requests of the candidate at {share}"
    if not evidence.safety:
        return f"{seen}: nothing to judge its safety by yet"
    what = " and ".join(names)
    if needed is None:
        return f"{seen} do not show its {what} within the margin, nor look like it"
    return f"{seen} do not yet show its {what} within the margin: about {needed:,} more are needed"


def _eta_s(needed: int | None, seen: int, for_s: float) -> float | None:
    if needed is None or not seen or for_s <= 0:
        return None
    return math.ceil(needed * for_s / seen)
