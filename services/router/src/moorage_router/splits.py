"""Weighted choice between the arms of a route. Pure: the draw comes from outside."""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

from moorage_common.contracts.routes import Arm


@dataclass(frozen=True, slots=True)
class Split:
    """Arms that take traffic, with the running sum of their weights in basis points."""

    arms: tuple[Arm, ...]
    bounds: tuple[int, ...]


def split_of(arms: Iterable[Arm]) -> Split:
    """The split among the arms that answer: shadows and arms without weight are left out.

    The candidate's part of the line begins at 0, so a larger weight only adds to it: no point leaves it.
    """
    answering = [arm for arm in arms if arm.role != "shadow" and arm.weight_bp > 0]
    answering.sort(key=lambda arm: arm.role != "candidate")
    return Split(arms=tuple(answering), bounds=tuple(accumulate(arm.weight_bp for arm in answering)))


def choose(split: Split, draw: float) -> Arm | None:
    """The arm whose share holds `draw`, in [0, 1). None when no arm takes traffic."""
    if len(split.arms) == 1:
        return split.arms[0]
    if not split.arms:
        return None
    return split.arms[bisect_right(split.bounds, draw * split.bounds[-1])]
