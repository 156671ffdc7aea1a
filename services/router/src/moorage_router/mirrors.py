"""Who gets copies of whose requests. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moorage_common.contracts.feedback import Output
from moorage_common.contracts.routes import WHOLE_BP, Route

if TYPE_CHECKING:
    from moorage_router.routes import ServedVersion

NEAR = 0.01
"""Numbers agree that differ by no more than this share of the larger one."""


@dataclass(frozen=True, slots=True)
class Mirror:
    """`share` of the requests that `of` answers (None: any other version) are copied to `served`.

    Attributes:
        is_pair: what it answers is kept beside what the caller got, so that one label judges both.
        is_judged: a rollout's step that mirrors: what becomes of copies counts for its candidate.
    """

    served: "ServedVersion"
    share: float
    of: int | None = None
    is_pair: bool = False
    is_judged: bool = False


def mirrors_of(route: Route, versions: Mapping[int, "ServedVersion"]) -> tuple[Mirror, ...]:
    """A route's. Code gets copies only where its arm accepts that it acts on them too; in a pair it never does."""
    rollout = route.rollout
    found = [
        Mirror(
            versions[arm.version],
            arm.weight_bp / WHOLE_BP,
            of=rollout.stable if rollout is not None and arm.version == rollout.candidate else None,
            is_judged=rollout is not None and arm.version == rollout.candidate,
        )
        for arm in route.arms
        if arm.role == "shadow" and arm.weight_bp and arm.version in versions
        if versions[arm.version].data_format or arm.copies_to_code
    ]
    if rollout is not None and rollout.paired_bp and route.feedback is not None:
        stable = versions.get(rollout.stable)
        if stable is not None and stable.data_format:
            found.append(Mirror(stable, rollout.paired_bp / WHOLE_BP, of=rollout.candidate, is_pair=True))
    return tuple(found)


def takes_same_body(one: "ServedVersion", other: "ServedVersion") -> bool:
    """Whether both are asked with the same body: neither joins features, or both the same into the same inputs."""
    if one.features is None or other.features is None:
        return one.features is other.features
    first, second = one.spec, other.spec
    return (first.feature_service, first.features, first.signature.inputs) == (
        second.feature_service, second.features, second.signature.inputs,
    )  # fmt: skip


def agree(one: Output, other: Output) -> bool:
    """Whether two compact outputs say the same: the same class, or numbers that differ by 1 % at most."""
    if one.kind != other.kind:
        return False
    if one.kind == "number":
        return math.isclose(float(one.value), float(other.value), rel_tol=NEAR, abs_tol=1e-12)
    return one.value == other.value
