"""Which traffic a step is: arms and rings' shares. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from moorage_common.contracts.rollouts import WHOLE_PCT, RolloutPolicy, Step
from moorage_common.contracts.routes import WHOLE_BP, Arm
from moorage_registry.deployments.models import RingArm

_BP = WHOLE_BP / WHOLE_PCT


@dataclass(frozen=True)
class Shares:
    """What a deployment's traffic is at a step."""

    arms: list[Arm]
    rings: list[RingArm]


def guard_of(policy: RolloutPolicy) -> int:
    """The number of the step after the last: the candidate is promoted."""
    return len(policy.steps)


def weight_pct(policy: RolloutPolicy, step: int) -> float:
    """Per cent of everybody's requests that the candidate answers; steps of rings and shadows leave it as it is."""
    if step >= guard_of(policy):
        return WHOLE_PCT - policy.guard.holdback
    reached = [one.weight for one in policy.steps[: step + 1] if one.ring is None and not one.shadow]
    return reached[-1] if reached else 0.0


def load_pct(policy: RolloutPolicy, step: int) -> float:
    """Per cent of the requests that the candidate works on, copies counted."""
    copies = policy.steps[step].shadow if 0 <= step < guard_of(policy) else 0.0
    return max(weight_pct(policy, step), copies)


def arms_of(policy: RolloutPolicy, stable: int, candidate: int, step: int) -> Shares:
    """The shares of a step.

    Args:
        step: -1 is the baseline, `len(policy.steps)` the guard. A ring keeps the share of its last step until the
            promotion, where everybody has at least as much.
    """
    share_bp = round(weight_pct(policy, step) * _BP)
    arms = [
        Arm(arm=f"v{stable}", version=stable, weight_bp=WHOLE_BP - share_bp, role="stable"),
        Arm(arm=f"v{candidate}", version=candidate, weight_bp=share_bp, role="candidate"),
    ]
    begun: Sequence[Step] = policy.steps[: step + 1] if step < guard_of(policy) else []
    if begun and begun[-1].shadow:
        shadow_bp = round(begun[-1].shadow * _BP)
        arms.append(Arm(arm=f"v{candidate}-shadow", version=candidate, weight_bp=shadow_bp, role="shadow"))
    shares = {one.ring: round(one.weight * _BP) for one in begun if one.ring is not None}
    rings = [
        RingArm(ring=name, version=candidate, weight_bp=ring_bp)
        for name, ring_bp in shares.items()
        if ring_bp > share_bp
    ]
    return Shares(arms, rings)
