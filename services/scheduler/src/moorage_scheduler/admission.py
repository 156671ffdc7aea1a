"""Replicas that want a place, in the order of fairness: placed, else room is made, else told why they wait."""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import structlog

from moorage_common.contracts.desired import DesiredVersion, Resources
from moorage_scheduler.asking import ask_of
from moorage_scheduler.hosts import Fleet, VersionKey
from moorage_scheduler.journal import Journal, why
from moorage_scheduler.moves import Mover
from moorage_scheduler.placement.charges import Usage, capacity_of, usage_of
from moorage_scheduler.placement.deciding import Grounds, decide
from moorage_scheduler.placement.decisions import Place, Preempt, Queue, Reclaim, Repair
from moorage_scheduler.placement.plan import place
from moorage_scheduler.placement.shares import Shares
from moorage_scheduler.placement.state import Ask
from moorage_scheduler.placing import Placing
from moorage_scheduler.pools import POOL_MODEL
from moorage_scheduler.serve_apps import without_room

log = structlog.get_logger()

MOST_TRIES = 4
"""Rounds of making room for one ask, others having taken what was made; then it rests."""
REST_S = 60.0
SEARCHES = 8
"""Versions a round for which it is searched whom to move or stop; those that waited longest for a search."""
SEARCH_S = 0.05
"""Once a round took so long, no further search is begun: all else waits meanwhile."""


@dataclass(frozen=True)
class Pending:
    """One replica that wants a place."""

    key: VersionKey
    version: DesiredVersion


@dataclass(frozen=True)
class Room:
    """Room being made for a version's next replica: by a host that moves, or by victims that stop."""

    moving: str
    victims: tuple[str, ...]
    reason: str
    tries: int
    since: float


@dataclass(frozen=True)
class _Basis:
    """What decisions rest on while nothing changes. `grounds`: by what others may be asked to do for one."""

    grounds: Mapping[Literal["nothing", "stop", "move or stop"], Grounds]
    usage: Usage


@dataclass
class Admission:
    """Decides every start.

    Args:
        shares: the queue tree as it is now.
    """

    fleet: Fleet
    placing: Placing
    mover: Mover
    shares: Callable[[], Shares]
    journal: Journal
    _rooms: dict[VersionKey, Room] = field(default_factory=dict)
    _searched_at: dict[VersionKey, float] = field(default_factory=dict)

    def admit(self, pending: Sequence[Pending], now: float) -> dict[VersionKey, list[str]]:
        """Start what can start; for each version the reasons of those of its replicas that wait."""
        waiting = {one.key for one in pending}
        self._rooms = {key: room for key, room in self._rooms.items() if key in waiting}
        self._searched_at = {key: self._searched_at.get(key, 0.0) for key in waiting}
        searched = set(sorted(waiting, key=lambda key: self._searched_at[key])[:SEARCHES])
        if not pending:
            return {}
        queued: dict[VersionKey, list[str]] = defaultdict(list)
        basis, told, began = self._basis(now), dict[VersionKey, str](), time.monotonic()
        for one in self._in_turn(pending, basis.usage):
            if one.key not in told:
                room, version = self._rooms.get(one.key), self.fleet.account.version
                may_search = one.key in searched and time.monotonic() - began < SEARCH_S
                reason = self._admit(one, now, basis, may_search=may_search)
                if self._rooms.get(one.key) is not room:
                    basis, told = self._basis(now), {}
                elif self.fleet.account.version != version:  # it was placed, which changes what is used alone
                    told = {}
                if reason:
                    told[one.key] = reason  # and to each further replica of it, for as long as nothing changes
            if one.key in told:
                queued[one.key].append(told[one.key])
        return dict(queued)

    def start_pool(self, tenant: str, number: int, asked: Resources) -> str | None:
        """Place and start a host of a pool; the reason when it has to wait."""
        decision = place(self.fleet.account, Ask(tenant, POOL_MODEL, number, asked))
        if not isinstance(decision, Place):
            return decision.reason
        self.placing.start_pool(tenant, number, asked, decision)
        return None

    def _in_turn(self, pending: Sequence[Pending], usage: Usage) -> list[Pending]:
        """Those for whom room was made first, then by shares."""
        if len(pending) < 2:
            return list(pending)
        asks = [ask_of(one.version) for one in pending]
        order = self.shares().order_of(asks, usage, capacity_of(self.fleet.account.sizes))
        return sorted((pending[at] for at in order), key=lambda one: one.key not in self._rooms)

    def _admit(self, one: Pending, now: float, basis: _Basis, *, may_search: bool) -> str:
        room = self._rooms.get(one.key)
        if room is not None and self._making(room):
            return room.reason
        hosts = (host.placed for host in self.fleet.hosts.values())
        if (reason := without_room(one.version, hosts, self.placing.nodes.live)) is not None:
            return reason
        tries = room.tries if room is not None else 0
        account, ask = self.fleet.account, ask_of(one.version)
        if not may_search or tries >= MOST_TRIES:
            grounds = basis.grounds["nothing"]
        else:
            grounds = basis.grounds["move or stop" if self.mover.in_budget(ask.tenant, now) else "stop"]
        if may_search:
            self._searched_at[one.key] = now
        decision = decide(account, ask, grounds, basis.usage)
        self.journal.decided(account, ask, decision, **grounds.recorded)
        match decision:
            case Place():
                self._rooms.pop(one.key, None)
                account.observe(ask)
                reason = why(account, ask, decision)
                host_id = self.placing.start(one.key, one.version, decision)
                basis.usage.hold(account.held[host_id], account.sizes[account.index[decision.node]])
                self.journal.keep(host_id, reason)
                return ""
            case Queue():
                if room is not None and now - room.since > REST_S:
                    del self._rooms[one.key]
                return f"{decision.reason}; {decision.would_fit}" if decision.would_fit else decision.reason
        return self._make_room(one, decision, tries, now)

    def _making(self, room: Room) -> bool:
        return self.mover.moves(room.moving) or any(victim in self.fleet.hosts for victim in room.victims)

    def _basis(self, now: float) -> _Basis:
        hosts = self.fleet.hosts
        movable, arrivals = self.mover.movable(now), frozenset(self.mover.arrivals())
        grounds = Grounds(
            shares=self.shares(),
            moving=arrivals,
            now=now,
            movable=frozenset(host_id for host_id in hosts if movable(host_id)),
            ready=frozenset(host_id for host_id, host in hosts.items() if host.serving) - arrivals,
            spare=frozenset(self._spare()),
            least={key: version.min_replicas for key, version in self.mover.wanted.items() if version.min_replicas},
        )
        usage = usage_of(self.fleet.account, arrivals)
        fewer: Grounds = replace(grounds, movable=frozenset())
        return _Basis(
            {"nothing": replace(grounds, may_disturb=False), "stop": fewer, "move or stop": grounds},
            usage,
        )

    def _make_room(self, one: Pending, decision: Repair | Reclaim | Preempt, tries: int, now: float) -> str:
        moving, victims = "", tuple[str, ...]()
        if isinstance(decision, Repair):
            move = decision.moves[0]
            at_version, asker = self.fleet.account.version, one.key[0]
            refused = self.mover.begin(move, f"room for {_name(one.key)}", at_version=at_version, asker=asker)
            if refused:
                return f"room can be made by a move, once {refused}"
            moving = move.replica
            reason = f"a replica moves from {move.source.node} to {move.target.node} to make room"
        else:
            victims = decision.victims
            verb = "reclaimed" if isinstance(decision, Reclaim) else "preempted"
            for victim in victims:
                self.fleet.retire(victim, f"its place was {verb}")
            # Reasons reach the tenants, so whose replicas they are is for the log alone.
            reason = f"{verb} the place of {len(victims)} replica(s) for it; waiting until they have stopped"
        log.info("making room", deployment=_name(one.key), how=reason, moving=moving, victims=victims)
        self._rooms[one.key] = Room(moving, victims, reason, tries + 1, now)
        return reason

    def _spare(self) -> set[str]:
        """Who does not stop for others: who goes already or moves, and what is no replica of one version."""
        hosts = self.fleet.hosts.items()
        staying = {host_id for host_id, host in hosts if host.placed.purpose == "replica" and not host.leaving}
        moving = {host.placed.host_id for pair in self.mover.pairs() for host in pair}
        return (self.fleet.account.held.keys() - staying) | moving


def _name(key: VersionKey) -> str:
    return f"{key[0]}/{key[1]} version {key[2]}"
