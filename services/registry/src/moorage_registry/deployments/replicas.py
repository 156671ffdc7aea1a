"""Telling what changed of a model's replicas from one report to the next. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from moorage_common.contracts.desired import ReplicaStatus

Place = tuple[str, int]
"""(host_id, version): a host may hold several versions."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A replica as last stored."""

    state: str
    restarts: int


@dataclass(frozen=True, slots=True)
class Transition:
    """`started`: it answers from now on. `lost`: it answered and no longer does, without having been told to stop."""

    place: Place
    verb: Literal["started", "lost"]
    reason: str


def transitions(
    stored: Mapping[Place, Seen], reported: Iterable[ReplicaStatus], wanted: frozenset[int]
) -> list[Transition]:
    """What happened between the stored rows and a report, in order.

    A ready replica that restarted and is ready again was lost and started, though no report showed it away. One that
    disappears after `stopping`, or whose version is no longer `wanted`, was not lost.
    """
    now = {(r.host_id, r.version): r for r in reported}
    found = []
    for place, before in stored.items():
        after = now.get(place)
        if before.state != "ready" or (after is None and place[1] not in wanted):
            continue
        if after is None:
            found.append(Transition(place, "lost", "the host is gone"))
        elif after.restarts > before.restarts:
            found.append(Transition(place, "lost", after.reason or "the host restarted"))
        elif after.state not in ("ready", "stopping"):
            found.append(Transition(place, "lost", after.reason or f"the replica is {after.state}"))
    for place, after in now.items():
        seen = stored.get(place)
        is_new = seen is None or seen.state != "ready" or after.restarts > seen.restarts
        if after.state == "ready" and is_new:
            found.append(Transition(place, "started", after.reason))
    return found
