"""What must be kept running while a rollout moves the weights. Pure.

Stable keeps what carries all of the traffic until the guard ends, so that a rollback moves weights alone; the
candidate has what its next step needs before that step begins.
"""

import math

from pydantic import BaseModel

from moorage_common.contracts.rollouts import RolloutPolicy
from moorage_registry.deployments.models import PlacedVersion, Scaling
from moorage_registry.rollouts.weights import guard_of, load_pct


class Capacity(BaseModel):
    """Kept with a rollout.

    `stable` and `candidate` are replicas that run at least, whatever the scaling says; `start` is what stable had when
    the rollout began, `hosts` what the candidate starts with and `most` what it may have. `settled_from` is the label
    after which the rollout reads; `failed_before` are the candidate's hosts that had failed before it started, and
    `restarts_before` how often the hosts of both had restarted.
    """

    stable: int
    candidate: int
    start: int
    hosts: int
    most: int
    settled_from: int = 0
    failed_before: list[str] = []
    restarts_before: dict[str, int] = {}


def candidate_needs(policy: RolloutPolicy, capacity: Capacity, step: int) -> int:
    """Replicas that the candidate has while at `step`: its hosts, and its share of stable's for the step after it."""
    following = _share(policy, min(step + 1, guard_of(policy)), capacity.stable)
    return max(1, min(capacity.most, max(capacity.hosts, following)))


def carries(policy: RolloutPolicy, capacity: Capacity, step: int) -> int:
    """Replicas of the candidate that must be ready for `step` to begin: its share of what stable had at the start."""
    return max(1, min(capacity.most, _share(policy, step, capacity.start)))


def _share(policy: RolloutPolicy, step: int, replicas: int) -> int:
    return math.ceil(replicas * load_pct(policy, step) / 100 - 1e-9)


def grown(capacity: Capacity, in_flight: float, placed: PlacedVersion) -> int:
    """What stable keeps once `in_flight` requests of both are seen: never less than before, nor over its max."""
    needed = math.ceil(in_flight / placed.scaling.target_in_flight)
    return max(capacity.stable, min(needed, placed.scaling.max))


def kept(scaling: Scaling, floor: int) -> Scaling:
    """`scaling` with at least `floor` replicas, as far as its maximum, which the quota counts, allows."""
    return scaling.model_copy(update={"min": min(max(scaling.min, floor), scaling.max)})


def smaller(one: Scaling, other: Scaling) -> Scaling:
    """`one` with no more replicas than `other`."""
    return one.model_copy(update={"min": min(one.min, other.min), "max": min(one.max, other.max)})


def asks(
    stable: PlacedVersion, held: PlacedVersion | None, candidate: int, hosts: int
) -> list[tuple[PlacedVersion, int]]:
    """What the candidate may be placed as, the best first, with how many replicas it starts with.

    Args:
        held: as the deployment holds it already; None to take stable's settings.
    """
    base = held if held is not None else stable.model_copy(update={"version": candidate})
    most = max(base.scaling.max, stable.scaling.max)
    tried = [(max(most, hosts), hosts), (most, min(hosts, most)), (most, 1)]
    return [
        (base.model_copy(update={"scaling": base.scaling.model_copy(update={"max": size})}), count)
        for size, count in dict.fromkeys(tried)
    ]
