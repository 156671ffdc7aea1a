"""What stands between the hosts of a version that run and those that should: a pure comparison."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Running:
    """A host as the comparison sees it.

    Leaving ones count no more, outdated ones until others are ready, arriving ones not yet: they will take the place of
    one that still counts.
    """

    host_id: str
    ready: bool
    leaving: bool
    current: bool
    started_at: float
    arriving: bool = False


@dataclass(frozen=True)
class Change:
    """What one version needs: so many more hosts, and these retired."""

    start: int
    retire: tuple[str, ...]


def compare(wanted: int, running: Sequence[Running]) -> Change:
    """The way from `running` to `wanted` current hosts.

    Outdated hosts (of other resources) go once as many current ones are ready. Of too many, those that are not ready
    go first, then the youngest.
    """
    staying = [host for host in running if not host.leaving and not host.arriving]
    current = sorted((host for host in staying if host.current), key=_first_to_stay)
    surplus = [host.host_id for host in current[wanted:]]
    ready = sum(host.ready for host in current[:wanted])
    outdated = sorted((host for host in staying if not host.current), key=_first_to_stay)
    replaced = [host.host_id for host in outdated[max(0, wanted - ready) :]]
    return Change(max(0, wanted - len(current)), (*surplus, *replaced))


def makes_room(least: int, running: Sequence[Running]) -> str | None:
    """The outdated host that may go before its successor is there, because nothing else makes room: one that does not
    answer, else one above the `least` ready ones; None when there is none."""
    staying = [host for host in running if not host.leaving]
    outdated = sorted((host for host in staying if not host.current), key=_first_to_stay)
    if not outdated or (outdated[-1].ready and sum(host.ready for host in staying) <= least):
        return None
    return outdated[-1].host_id


def _first_to_stay(host: Running) -> tuple[bool, float]:
    return (not host.ready, host.started_at)
