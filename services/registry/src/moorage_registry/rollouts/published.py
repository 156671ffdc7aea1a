"""What a rollout that moves says about its model's route and replicas. Pure."""

from dataclasses import dataclass

from moorage_common.contracts.rollouts import RolloutPolicy
from moorage_common.contracts.routes import RouteRollout
from moorage_registry.deployments.models import PlacedVersion, Scaling
from moorage_registry.rollouts.capacity import Capacity, kept
from moorage_registry.rollouts.tables import RolloutRow


@dataclass(frozen=True)
class PublishedRollout:
    """`route` is None once the rollout is over; what is kept running stays until the version that lost has left."""

    stable: int
    candidate: int
    capacity: Capacity
    route: RouteRollout | None

    def scaling(self, placed: PlacedVersion) -> Scaling:
        """How many replicas of a version there are meanwhile."""
        if placed.version == self.stable:
            return kept(placed.scaling, self.capacity.stable)
        if placed.version == self.candidate:
            return kept(placed.scaling, self.capacity.candidate)
        return placed.scaling


def published_of(row: RolloutRow) -> PublishedRollout:
    policy = RolloutPolicy.model_validate(row.policy)
    paired = policy.quality.paired_pct if policy.quality.on else 0.0
    route = RouteRollout(
        id=row.id,
        stable=row.stable,
        candidate=row.candidate,
        paired_bp=round(paired * 100),
        skip_first=policy.latency.skip_first,
    )
    return PublishedRollout(
        stable=row.stable,
        candidate=row.candidate,
        capacity=Capacity.model_validate(row.capacity),
        route=route if row.finished_at is None else None,
    )
