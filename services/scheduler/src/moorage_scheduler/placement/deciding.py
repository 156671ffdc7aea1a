"""The whole decision on one ask: place it, else move others, else have others stop, else let it wait."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from moorage_common.contracts.keys import GpuShare
from moorage_scheduler.placement.charges import Usage, usage_of
from moorage_scheduler.placement.decisions import Decision, Place, Preempt, Queue, Reclaim
from moorage_scheduler.placement.plan import place
from moorage_scheduler.placement.reclaim import preempt, reclaim
from moorage_scheduler.placement.repair import repair
from moorage_scheduler.placement.shares import Refused, Shares
from moorage_scheduler.placement.state import Ask, ClusterState
from moorage_scheduler.placement.victims import Key


@dataclass(frozen=True)
class Grounds:
    """What a decision rests on besides the account and the ask.

    Attributes:
        moving: second places of replicas that move, which nobody is charged for.
        now: in the clock of `Held.since`.
        may_disturb: whether running replicas may be moved or stopped for the ask.
        movable, ready: replicas that may be moved, that answer.
        spare: replicas that go or move already, and so are not stopped for others.
        least: minimum of ready replicas of each version, where there is one.
    """

    shares: Shares
    moving: frozenset[str] = frozenset()
    now: float = 0.0
    may_disturb: bool = True
    movable: frozenset[str] = frozenset()
    ready: frozenset[str] = frozenset()
    spare: frozenset[str] = frozenset()
    least: Mapping[Key, int] = field(default_factory=dict)

    @cached_property
    def recorded(self) -> Mapping[str, Any]:
        """As JSON, for `of_recorded`."""
        tenants = self.shares.tenants.items()
        return {
            "shares": {t: [share.model_dump(mode="json") for share in by_model.values()] for t, by_model in tenants},
            "caps": dict(self.shares.caps),
            "grace_s": self.shares.grace_s,
            "now": self.now,
            "may_disturb": self.may_disturb,
            **{name: sorted(getattr(self, name)) for name in _SETS},
            "least": [[*key, least] for key, least in sorted(self.least.items())],
        }

    @staticmethod
    def of_recorded(recorded: Mapping[str, Any]) -> "Grounds":
        limits = {t: [GpuShare.model_validate(one) for one in shares] for t, shares in recorded["shares"].items()}
        return Grounds(
            shares=Shares.of(limits, recorded["caps"], recorded["grace_s"]),
            now=recorded["now"],
            may_disturb=recorded["may_disturb"],
            least={(tenant, model, version): least for tenant, model, version, least in recorded["least"]},
            **{name: frozenset(recorded[name]) for name in _SETS},
        )


_SETS = ("moving", "movable", "ready", "spare")


def decide(state: ClusterState, ask: Ask, grounds: Grounds, usage: Usage | None = None) -> Decision:
    """What becomes of `ask`. Deterministic: the same state, ask and grounds always give the same decision.

    Args:
        usage: of `state` without what `grounds.moving` holds, where the caller keeps it.
    """
    usage = usage_of(state, grounds.moving) if usage is None else usage
    asks = grounds.shares.narrowed(usage, ask, sorted({size.gpu_model for size in state.sizes}))
    if isinstance(asks, Refused):
        return Queue(asks.reason)
    answers = [place(state, one) for one in asks]
    found = next((answer for answer in answers if isinstance(answer, Place)), None)
    if found is not None or not grounds.may_disturb:
        return found or answers[-1]
    state.failures.failed_at.clear()  # what was searched in vain before is no ground, and would not be recorded
    # Nobody is disturbed for a scavenger, which is the first to go again.
    wanted = asks if ask.scheduling_class != "scavenger" else []
    plans = (repair(state, one, grounds.movable.__contains__) for one in wanted)
    plan = next((plan for plan in plans if plan is not None), None)
    return plan or _victims(state, ask, grounds, usage) or answers[-1]


def _victims(state: ClusterState, ask: Ask, grounds: Grounds, usage: Usage) -> Reclaim | Preempt | None:
    for stop in (reclaim, preempt):
        found = stop(
            state,
            ask,
            grounds.shares,
            grounds.now,
            ready=grounds.ready.__contains__,
            least=lambda key: grounds.least.get(key, 0),
            usage=usage,
            spare=grounds.spare,
        )
        if found is not None:
            return found
    return None
