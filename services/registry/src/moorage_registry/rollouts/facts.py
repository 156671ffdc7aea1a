"""What is the case of a rollout outside of its evidence, from the scheduler's report and the catalogue. Pure."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from moorage_common.contracts.desired import ReplicaStatus, Status
from moorage_registry.catalog.tables import VersionRow
from moorage_registry.rollouts.capacity import Capacity
from moorage_registry.rollouts.steps import Facts

CRASHES = 3
CRASH_WINDOW_S = 600.0
"""So many restarts of the candidate's hosts within this time, and none of stable's, are its own fault."""


@dataclass
class Restarts:
    """Restarts of a version's hosts as they are seen, by time."""

    counts: dict[str, int] = field(default_factory=dict)
    seen: deque[float] = field(default_factory=lambda: deque(maxlen=100))

    def look(self, replicas: Sequence[ReplicaStatus], now: float) -> int:
        """Count what is new; how many there were within the window."""
        for replica in replicas:
            new = replica.restarts - self.counts.get(replica.host_id, 0)
            self.seen.extend([now] * min(max(new, 0), self.seen.maxlen or 0))
            self.counts[replica.host_id] = replica.restarts
        return sum(now - at <= CRASH_WINDOW_S for at in self.seen)


def replicas_of(status: Status, version: int) -> list[ReplicaStatus]:
    return [one for one in status.replicas if one.version == version]


def ready(status: Status, version: int) -> int:
    return sum(one.state == "ready" for one in replicas_of(status, version))


def restarts_of(status: Status, versions: Sequence[int]) -> dict[str, int]:
    return {one.host_id: one.restarts for one in status.replicas if one.version in versions}


def failed_hosts(status: Status, version: int) -> list[str]:
    return [one.host_id for one in replicas_of(status, version) if one.state == "failed"]


def fault(version: VersionRow, status: Status, capacity: Capacity, restarts: int, stable_restarts: int) -> str | None:
    """Why the candidate cannot run, as a sentence; None where nothing says so."""
    number = version.number
    if version.state == "rejected":
        return f"Version {number} was rejected at validation: {version.reason}"
    for one in replicas_of(status, number):
        if one.state == "failed" and one.host_id not in capacity.failed_before:
            return f"Version {number} cannot run: {one.reason or 'its replica failed'}"
    if restarts >= CRASHES and not stable_restarts:
        return (
            f"Version {number} crashes: {restarts} restarts of its hosts within {CRASH_WINDOW_S / 60:g} minutes, and "
            "none of the stable version's"
        )
    return None


def no_room(status: Status, stable: int, candidate: int) -> str | None:
    """What fits nowhere now, with the scheduler's reason."""
    for number in (stable, candidate):
        queued = [one for one in replicas_of(status, number) if one.state == "pending" and one.reason]
        if queued:
            beside = f"beside those of version {candidate if number == stable else stable}"
            return f"There is no room for {len(queued)} more replicas of version {number} {beside}: {queued[0].reason}"
    return None


def facts_of(
    *,
    stable: int,
    candidate: VersionRow,
    capacity: Capacity,
    stable_kept: int,
    status: Status,
    skew: str | None,
    restarts: Mapping[int, int],
    label_delay_s: float | None,
) -> Facts:
    """What `steps.decide` is told.

    Args:
        stable_kept: replicas that stable had at the start; those it got since are not waited for.
        restarts: within the last minutes, by version.
    """
    number = candidate.number
    return Facts(
        candidate_ready=ready(status, number),
        candidate_wanted=capacity.hosts,
        stable_ready=ready(status, stable),
        stable_wanted=stable_kept,
        failed=fault(candidate, status, capacity, restarts.get(number, 0), restarts.get(stable, 0)),
        no_room=no_room(status, stable, number),
        skew=skew,
        label_delay_s=label_delay_s,
    )


def percentile(values: Sequence[float], share: float) -> float | None:
    """The value that `share` of `values` do not exceed; None of none."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
