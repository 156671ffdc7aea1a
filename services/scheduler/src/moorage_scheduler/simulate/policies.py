"""What a simulated scheduler does with an ask: the placement code of the live one, in more or less of its steps."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from moorage_scheduler.placement.charges import Usage
from moorage_scheduler.placement.decisions import Decision, Place, Queue
from moorage_scheduler.placement.plan import place
from moorage_scheduler.placement.reclaim import preempt, reclaim
from moorage_scheduler.placement.repair import repair
from moorage_scheduler.placement.scores import Policy as Score
from moorage_scheduler.placement.shares import Refused, Shares
from moorage_scheduler.placement.state import Ask, ClusterState
from moorage_scheduler.placement.victims import Key


@dataclass(frozen=True)
class Policy:
    """How places are chosen, whether others are moved for one that fits nowhere, and whether tenants have shares."""

    name: str
    score: Score
    repairs: bool = False
    fair: bool = False


POLICIES = {
    one.name: one
    for one in (
        Policy("firstfit", "firstfit"),
        Policy("bestfit", "bestfit"),
        Policy("fgd", "fgd"),
        Policy("firstfit+repair", "firstfit", repairs=True),
        Policy("bestfit+repair", "bestfit", repairs=True),
        Policy("moorage", "fgd", repairs=True, fair=True),
    )
}


@dataclass
class Fairness:
    """The tenants' shares beside a state, and what they use of it."""

    shares: Shares = field(default_factory=lambda: Shares.of({}))
    usage: Usage = field(default_factory=Usage)
    least: Mapping[Key, int] = field(default_factory=dict)

    def minimum(self, key: Key) -> int:
        return self.least.get(key, 0)


def decide(
    policy: Policy, state: ClusterState, ask: Ask, fairness: Fairness, *, now: float, movable: Callable[[str], bool]
) -> Decision:
    """A place, else moves that make one, else whom the tenant's guarantee or priority has stopped, else the queue."""
    if not policy.fair:
        found = place(state, ask, policy.score)
        moved = repair(state, ask, movable) if isinstance(found, Queue) and policy.repairs else None
        return moved or found
    shares, usage = fairness.shares, fairness.usage
    admitted = shares.narrowed(usage, ask, state.models)
    waits = Queue(admitted.reason) if isinstance(admitted, Refused) else Queue("the cluster has no node yet")
    for kept in () if isinstance(admitted, Refused) else admitted:
        found = place(state, kept, policy.score)
        if isinstance(found, Place):
            return found
        waits = found
    if policy.repairs and not isinstance(admitted, Refused) and ask.scheduling_class != "scavenger":
        moved = repair(state, admitted[-1], movable)
        if moved is not None:
            return moved
    return (
        reclaim(state, ask, shares, now, least=fairness.minimum, usage=usage)
        or preempt(state, ask, shares, now, least=fairness.minimum, usage=usage)
        or waits
    )
