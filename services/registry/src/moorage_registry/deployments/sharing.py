"""How requests are shared out besides weights: what they stick to, rings first, shadows beside. Pure."""

import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moorage_common.contracts.routes import Arm, RouteRing, Sticky
from moorage_common.contracts.tensors import CODE_FORMATS
from moorage_common.errors import NotFound, Unprocessable
from moorage_registry.catalog.tables import VersionRow
from moorage_registry.deployments.models import (
    DeploymentSpec,
    FeaturesSpec,
    Revision,
    RingArm,
    RingArmSpec,
    Stickiness,
    StickinessSpec,
    TrafficChange,
)
from moorage_registry.deployments.plan import kept_arms, settle_arms, settle_number
from moorage_registry.deployments.tables import TrafficRow
from moorage_registry.headers import fault_of
from moorage_registry.rings.tables import RingRow


@dataclass(frozen=True)
class Sharing:
    """All of a deployment's traffic."""

    arms: Sequence[Arm] = ()
    sticky: Sticky | None = None
    rings: Sequence[RingArm] = ()

    def comparable(self) -> dict[str, Any]:
        """As nested JSON objects for `plan.differences`; the salt is nobody's wish."""
        return {
            "traffic": {arm.arm: {"weight_bp": arm.weight_bp, "role": arm.role} for arm in self.arms} or None,
            "stickiness": stickiness_of(self.sticky).model_dump() if self.sticky is not None else None,
            "rings": {ring.ring: {"version": ring.version, "weight_bp": ring.weight_bp} for ring in self.rings} or None,
        }


def sharing_of(row: TrafficRow) -> Sharing:
    return Sharing(
        arms=[Arm.model_validate(arm) for arm in row.arms],
        sticky=Sticky.model_validate(row.stickiness) if row.stickiness is not None else None,
        rings=[RingArm(ring=ring["name"], version=ring["version"], weight_bp=ring["weight_bp"]) for ring in row.rings],
    )


def write(row: TrafficRow, sharing: Sharing) -> None:
    """Let the row say it, at its next revision."""
    row.arms = [arm.model_dump(mode="json") for arm in sharing.arms]
    row.stickiness = sharing.sticky.model_dump(mode="json") if sharing.sticky is not None else None
    row.rings = [{"name": ring.ring, "version": ring.version, "weight_bp": ring.weight_bp} for ring in sharing.rings]
    row.revision += 1


def settle(
    asked: DeploymentSpec | TrafficChange,
    model: str,
    versions: Sequence[VersionRow],
    after: Revision,
    before: Sharing,
    *,
    known: Collection[str],
) -> Sharing:
    """What the traffic of a deployment that is `after` becomes. Raises NotFound, Conflict, Unprocessable.

    Args:
        versions: all of the model's.
        known: names of the tenant's rings.
    """
    states, held = {row.number: row.state for row in versions}, after.numbers()
    wanted = asked.traffic if isinstance(asked, DeploymentSpec) else asked.arms
    arms = settle_arms(wanted, model, states, held) if wanted is not None else kept_arms(before.arms, held)
    sticky, rings = before.sticky, kept_rings(before.rings, held)
    if "stickiness" in asked.model_fields_set:
        sticky = settle_sticky(asked.stickiness, before.sticky)
    if "rings" in asked.model_fields_set:
        rings = settle_rings(asked.rings or [], lambda said: settle_number(said, model, states), held, known)
    of_deployment = [row for row in versions if row.number in held]
    check_entity(sticky, of_deployment, after.features)
    check_shadows(arms, {row.number: row.format for row in of_deployment})
    return Sharing(arms, sticky, rings)


def stickiness_of(sticky: Sticky) -> Stickiness:
    return Stickiness(by=sticky.by, name=sticky.name)


def salted(sticky: Sticky) -> Sticky:
    """The same with a new salt: every key is drawn anew."""
    return sticky.model_copy(update={"salt": secrets.token_hex(8)})


def settle_sticky(asked: StickinessSpec | None, before: Sticky | None) -> Sticky | None:
    """What the traffic sticks to; keys stay where they are while `by` and `name` do. Raises Unprocessable."""
    if asked is None:
        return None
    name = asked.name.lower() if asked.by == "header" else asked.name
    fault = fault_of(name) if asked.by == "header" else None
    if fault is not None:
        raise Unprocessable(fault, code="header_not_usable")
    if before is not None and (before.by, before.name) == (asked.by, name) and not asked.reshuffle:
        return before
    return salted(Sticky(by=asked.by, name=name))


def check_entity(sticky: Sticky | None, versions: Sequence[VersionRow], features: FeaturesSpec | None) -> None:
    """Raises Unprocessable where a version takes no input by which the traffic sticks."""
    if sticky is None or sticky.by != "entity":
        return
    joined_by = set(features.entity.values()) if features is not None else set()
    lacking = [row.number for row in versions if sticky.name not in {*_inputs(row), *joined_by}]
    if lacking:
        message = (
            f"version {', '.join(map(str, sorted(lacking)))} has no input {sticky.name!r} to be sticky by; "
            "name one that every version of the deployment takes, or a header"
        )
        raise Unprocessable(message, code="entity_not_an_input")


def _inputs(row: VersionRow) -> set[str]:
    return {tensor["name"] for tensor in row.signature["inputs"]}


def check_shadows(arms: Sequence[Arm], formats: Mapping[int, str]) -> None:
    """Raises Unprocessable where code would answer copies, and so act twice, without that being accepted."""
    code = [
        arm.version
        for arm in arms
        if arm.role == "shadow" and not arm.copies_to_code and formats.get(arm.version) in CODE_FORMATS
    ]
    if code:
        message = (
            f"version {', '.join(map(str, code))} is code, which acts on copies of requests as on the requests "
            "themselves; set copies_to_code on its arm if that does no harm"
        )
        raise Unprocessable(message, code="shadow_of_code")


def settle_rings(
    asked: Sequence[RingArmSpec], number: Callable[[int | str], int], held: Collection[int], known: Collection[str]
) -> list[RingArm]:
    """Which rings get which version. Raises NotFound, Unprocessable, Conflict.

    Args:
        number: settles a version's number.
        known: names of the tenant's rings.
    """
    settled = []
    for ring in asked:
        if ring.ring not in known:
            message = f"there is no ring {ring.ring}; make it with `moorage rings set {ring.ring}`"
            raise NotFound(message, code="ring_not_found")
        version = number(ring.version)
        if version not in held:
            message = f"version {version} is not part of the deployment, which holds {sorted(held)}; deploy it first"
            raise Unprocessable(message, code="version_not_deployed")
        settled.append(RingArm(ring=ring.ring, version=version, weight_bp=ring.basis_points))
    if len({ring.ring for ring in settled}) != len(settled):
        raise Unprocessable("a ring is named twice", code="ring_named_twice")
    return settled


def kept_rings(rings: Sequence[RingArm], held: Collection[int]) -> list[RingArm]:
    """`rings` without versions no longer held: their callers go where everybody goes."""
    return [ring for ring in rings if ring.version in held]


def route_rings(rings: Sequence[Mapping[str, Any]], rows: Mapping[str, RingRow]) -> list[RouteRing]:
    """Rings of a traffic row with their callers."""
    return [
        RouteRing(
            name=ring["name"],
            header=row.header,
            values=row.values,
            kids=row.kids,
            version=ring["version"],
            weight_bp=ring["weight_bp"],
        )
        for ring in rings
        if (row := rows.get(ring["name"])) is not None
    ]
