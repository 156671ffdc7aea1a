"""Moves of replicas that run: the new one serves before the old one goes, so that no request is lost.

Start the new host at the target -> it loads -> routers have its endpoint -> the old one is announced as draining,
answers what it has and stops. Its place counts until it is gone, so a move is charged twice meanwhile. A move whose new
host does not come up is aborted, and the old one goes on.

A move is nothing but a host whose `moved_from` runs too: a scheduler that takes over goes on with the moves it finds.
"""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import structlog

from moorage_common.contracts.desired import DesiredVersion
from moorage_scheduler.hosts import Fleet, Host, VersionKey
from moorage_scheduler.metrics import SchedulerMetrics
from moorage_scheduler.placement.decisions import Move
from moorage_scheduler.placing import Placing
from moorage_scheduler.serve_apps import without_room

log = structlog.get_logger()

HOUR_S = 3600.0


@dataclass(frozen=True)
class MoveLimits:
    """How often replicas are disturbed for others' sake.

    Attributes:
        cooldown_s: a replica that moved, or could not, stays for so long.
        an_hour: moves of one tenant's replicas, and moves for one tenant's sake.
        timeout_s: a new host that does not serve by then is given up.
    """

    cooldown_s: float = 60.0
    an_hour: int = 120
    timeout_s: float = 180.0


@dataclass
class Mover:
    """Begins moves and brings them to their end.

    Args:
        told: whether a host's endpoint has been written for the routers.
    """

    fleet: Fleet
    placing: Placing
    metrics: SchedulerMetrics
    limits: MoveLimits
    told: Callable[[str], bool]
    wanted: Mapping[VersionKey, DesiredVersion] = field(default_factory=dict)
    _begun: defaultdict[str, deque[float]] = field(default_factory=lambda: defaultdict(deque))
    _aborted_at: dict[str, float] = field(default_factory=dict)
    _under_way: dict[str, str] = field(default_factory=dict)
    """New host -> the old one."""

    def pairs(self) -> Iterator[tuple[Host, Host]]:
        """New and old host of every move under way."""
        for host in self.fleet.hosts.values():
            source = self.fleet.hosts.get(host.placed.moved_from)
            if source is not None:
                yield host, source

    def moves(self, host_id: str) -> bool:
        """Whether the host is on its way elsewhere."""
        return any(old.placed.host_id == host_id for _new, old in self.pairs())

    def arrivals(self) -> set[str]:
        """Second places of replicas that move, which nobody is charged for."""
        return {new.placed.host_id for new, _old in self.pairs()}

    def busy_nodes(self) -> set[str]:
        """Nodes that a move concerns, on which no other begins."""
        return self._busy()[1]

    def _busy(self) -> tuple[set[str], set[str]]:
        """Hosts and nodes that a move concerns."""
        both = [host for pair in self.pairs() for host in pair]
        return {host.placed.host_id for host in both}, {host.placed.node for host in both}

    def movable(self, now: float) -> Callable[[str], bool]:
        """Which replicas may be moved to make room for others; that pinned ones stay is the planner's rule."""
        busy, nodes = self._busy()

        def may_move(host_id: str) -> bool:
            host = self.fleet.hosts.get(host_id)
            if host is None or not host.serving or host_id in busy or host.placed.node in nodes:
                return False
            version = self.wanted.get(host.key)
            if version is None or version.pinned or not self._rested(host, now) or self._cramped(version):
                return False
            return host.placed.asked == version.resources.model_dump(mode="json") and self.in_budget(
                host.placed.tenant, now
            )

        return may_move

    def _cramped(self, version: DesiredVersion) -> str | None:
        """Why Ray Serve has no room for a second application, which there is while a replica moves."""
        hosts = (host.placed for host in self.fleet.hosts.values())
        return without_room(version, hosts, self.placing.nodes.live)

    def _rested(self, host: Host, now: float) -> bool:
        moved_at = host.placed.started_at if host.placed.moved_from else 0.0
        return now - max(moved_at, self._aborted_at.get(host.placed.host_id, 0.0)) >= self.limits.cooldown_s

    def in_budget(self, tenant: str, now: float) -> bool:
        """Whether the tenant's replicas may be moved, and others for it."""
        begun = self._begun[tenant]
        while begun and now - begun[0] > HOUR_S:
            begun.popleft()
        return len(begun) < self.limits.an_hour

    def recently_aborted(self, host_id: str, now: float) -> bool:
        return now - self._aborted_at.get(host_id, 0.0) < self.limits.cooldown_s

    def begin(self, move: Move, why: str, *, at_version: int, asker: str = "") -> str:
        """Start the new host of `move`; why it has to wait, or nothing.

        Args:
            why: for people.
            at_version: of the account that the move was planned on.
            asker: the tenant for whose replica room is made, if it is for one.
        """
        busy, nodes = self._busy()
        old = self.fleet.hosts.get(move.replica)
        version = self.wanted.get(old.key) if old is not None else None
        if self.fleet.account.version != at_version or old is None or old.leaving or version is None:
            return "the cluster changed since the move was planned"
        if (reason := self._cramped(version)) is not None:
            return reason
        if move.replica in busy or {move.source.node, move.target.node} & nodes:
            return f"another move on {move.source.node} or {move.target.node} ends first"
        for tenant in {old.placed.tenant, asker or old.placed.tenant}:
            self._begun[tenant].append(time.time())
        new = self.placing.start(old.key, version, move.target, moved_from=move.replica)
        log.info("moving", host_id=move.replica, to=new, node=move.target.node, devices=move.target.devices, why=why)
        self._under_way[new] = move.replica
        return ""

    def step(self, now: float) -> None:
        """Bring every move on by what it is ready for."""
        for new, old in list(self.pairs()):
            self._under_way[new.placed.host_id] = old.placed.host_id
            if new.leaving or old.leaving:
                continue
            version = self.wanted.get(new.key)
            if version is None or new.placed.asked != version.resources.model_dump(mode="json"):
                self.fleet.retire(new.placed.host_id, "something else is desired of its version")
            elif new.serving and self.told(new.placed.host_id):
                self.fleet.retire(old.placed.host_id, f"moved to {new.placed.node}")
            elif now - new.placed.started_at > self.limits.timeout_s:
                self.fleet.retire(new.placed.host_id, f"it did not serve within {self.limits.timeout_s:.0f} s")
        self._settle(now)

    def _settle(self, now: float) -> None:
        """Count the moves that ended."""
        hosts = self.fleet.hosts
        for new_id, old_id in list(self._under_way.items()):
            if new_id in hosts and old_id in hosts:
                continue
            del self._under_way[new_id]
            done = new_id in hosts
            self.metrics.moves.labels("done" if done else "aborted").inc()
            log.info("moved" if done else "move aborted", host_id=old_id, to=new_id)
            if not done:
                self._aborted_at[old_id] = now
        for host_id in [host_id for host_id in self._aborted_at if host_id not in hosts]:
            del self._aborted_at[host_id]
