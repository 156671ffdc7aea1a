"""How many replicas a version should have: up fast, down slowly, within its bounds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

UP_WINDOW_S = 3.0
DOWN_WINDOW_S = 60.0
DOWN_STEP_S = 15.0


@dataclass(frozen=True)
class Bounds:
    """`idle_s`: so long after it was last asked for, a version that may have no replica has none."""

    min_replicas: int
    max_replicas: int
    target_in_flight: int
    idle_s: float = 300.0


@dataclass(frozen=True)
class Sample:
    """Requests in flight and queued for a version, over all routers, at a time in seconds."""

    at: float
    in_flight: int


@dataclass(frozen=True)
class Scale:
    """The number of replicas wanted and when it last went down."""

    wanted: int
    lowered_at: float = 0.0


def rescale(bounds: Bounds, scale: Scale, samples: Sequence[Sample], woken_at: float, now: float) -> Scale:
    """The next scale.

    Up: at once to the mean in-flight of the last 3 s over the target. Down: one replica every 15 s at most, and never
    below what the highest sample of the last 60 s needs (the stabilisation window of Kubernetes' autoscaler). To zero,
    where that is allowed: all at once when nobody asked for `idle_s`.

    Args:
        woken_at: when a router last sent the version a request or had one wait for it; seconds, 0 for never.
    """
    asked_for = [woken_at, *(sample.at for sample in samples if sample.in_flight > 0)]
    is_awake = now - max(asked_for) <= bounds.idle_s
    if not is_awake and bounds.min_replicas == 0:
        return Scale(0, now if scale.wanted else scale.lowered_at)
    recent = [sample.in_flight for sample in samples if now - sample.at <= UP_WINDOW_S]
    lately = [sample.in_flight for sample in samples if now - sample.at <= DOWN_WINDOW_S]
    needed = _replicas(sum(recent) / len(recent), bounds) if recent else 0
    kept = _replicas(max(lately, default=0), bounds)
    floor = max(bounds.min_replicas, min(1, bounds.max_replicas))
    target = min(max(needed, floor, min(kept, scale.wanted)), max(bounds.max_replicas, bounds.min_replicas))
    if target >= scale.wanted:
        return Scale(target, scale.lowered_at)
    if scale.wanted > bounds.max_replicas:
        return Scale(max(target, bounds.max_replicas), now)
    if now - scale.lowered_at < DOWN_STEP_S:
        return scale
    return Scale(scale.wanted - 1, now)


def _replicas(in_flight: float, bounds: Bounds) -> int:
    return math.ceil(in_flight / max(1, bounds.target_in_flight))
