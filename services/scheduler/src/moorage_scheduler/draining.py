"""Drained nodes: what is on them moves away as room allows, and what is left says why."""

from dataclasses import dataclass, field

from moorage_scheduler.hosts import Fleet, Host
from moorage_scheduler.moves import Mover
from moorage_scheduler.nodes import Nodes
from moorage_scheduler.placement.decisions import Move, Place, Queue
from moorage_scheduler.placement.plan import place
from moorage_scheduler.placement.repair import repair
from moorage_scheduler.placement.state import Ask


@dataclass
class Draining:
    """`left` tells for each drained node what is still on it, and why."""

    fleet: Fleet
    nodes: Nodes
    mover: Mover
    left: dict[str, dict[str, str]] = field(default_factory=dict)
    _sought: dict[str, tuple[float, str]] = field(default_factory=dict)
    """By host: when it was last searched whom to move for it, and what came of it."""
    _may_search: bool = True

    def step(self, now: float) -> None:
        """Begin what moves can begin. An operator's order is not held to cool-downs or budgets, nor to pins."""
        self.left = {name: {} for name in sorted(self.nodes.drained)}
        here = [host for host in self.fleet.hosts.values() if host.placed.node in self.left]
        self._sought = {
            host_id: self._sought.get(host_id, (0.0, "")) for host_id in (one.placed.host_id for one in here)
        }
        self._may_search = True  # once a step: a search takes long, and who waited longest for one is next
        busy = self.mover.busy_nodes()
        for host in sorted(here, key=lambda one: (self._sought[one.placed.host_id][0], one.placed.started_at)):
            self.left[host.placed.node][host.placed.host_id] = self._away(host, busy, now)

    def _away(self, host: Host, busy: set[str], now: float) -> str:
        """Get one host away; why it is still there. `busy`: nodes that a move concerns."""
        placed = host.placed
        if (going := self._going(host)) is not None:
            return going
        if self.mover.recently_aborted(placed.host_id, now):
            return "its successor did not come up; it is tried again within a minute"
        if placed.node in busy:
            return f"another move on {placed.node} ends first"
        account, held = self.fleet.account, host.held()
        target = place(account, held.ask)
        if not isinstance(target, Place):
            return self._room_for(placed.host_id, held.ask, target, now)
        source = Place(placed.node, tuple(placed.devices), placed.gpu_milli or 0)
        why = f"{placed.node} is drained"
        refused = self.mover.begin(Move(placed.host_id, source, target), why, at_version=account.version)
        if not refused:
            busy |= {source.node, target.node}
        return refused or "its successor is starting elsewhere"

    def _going(self, host: Host) -> str | None:
        """How it is about to go already."""
        if host.leaving:
            return "it is stopping"
        if self.mover.moves(host.placed.host_id):
            return "its successor is starting elsewhere"
        if host.placed.purpose == "pool":
            return "its pool is starting elsewhere as there is room"
        if self.fleet.arriving(host):
            return "it was to take another's place, and is given up or stays until that one has gone"
        return None

    def _room_for(self, host_id: str, ask: Ask, queued: Queue, now: float) -> str:
        """Make room elsewhere by moving others; why it has to wait."""
        if not self._may_search:
            return self._sought[host_id][1] or f"no room elsewhere: {queued.reason}"
        self._may_search = False
        found = self._made_room(ask, queued, now)
        self._sought[host_id] = (now, found)
        return found

    def _made_room(self, ask: Ask, queued: Queue, now: float) -> str:
        account = self.fleet.account
        plan = repair(account, ask, self.mover.movable(now))
        if plan is None:
            return f"no room elsewhere: {queued.reason}"
        waits = self.mover.begin(plan.moves[0], f"room for {ask.model} of a drained node", at_version=account.version)
        return f"room is made elsewhere{', once ' if waits else ''}{waits}"
