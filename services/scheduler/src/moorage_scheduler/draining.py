"""Drained nodes: what is on them moves away as room allows, and what is left says why."""

from collections import defaultdict
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

    def step(self, now: float) -> None:
        """Begin what moves can begin. An operator's order is not held to cool-downs or budgets, nor to pins."""
        self.left = {name: {} for name in sorted(self.nodes.drained)}
        by_node: dict[str, list[Host]] = defaultdict(list)
        for host in self.fleet.hosts.values():
            if host.placed.node in self.left:
                by_node[host.placed.node].append(host)
        for name, hosts in by_node.items():
            for host in sorted(hosts, key=lambda host: host.placed.started_at):
                self.left[name][host.placed.host_id] = self._away(host, now)

    def _away(self, host: Host, now: float) -> str:
        """Get one host away; why it is still there."""
        placed = host.placed
        if (going := self._going(host)) is not None:
            return going
        if self.mover.recently_aborted(placed.host_id, now):
            return "its successor did not come up; it is tried again within a minute"
        account, held = self.fleet.account, host.held()
        target = place(account, held.ask)
        if not isinstance(target, Place):
            return self._room_for(held.ask, target, now)
        source = Place(placed.node, tuple(placed.devices), placed.gpu_milli or 0)
        why = f"{placed.node} is drained"
        return self.mover.begin(Move(placed.host_id, source, target), why, at_version=account.version) or (
            "its successor is starting elsewhere"
        )

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

    def _room_for(self, ask: Ask, queued: Queue, now: float) -> str:
        """Make room elsewhere by moving others; why it has to wait."""
        account = self.fleet.account
        plan = repair(account, ask, self.mover.movable(now))
        if plan is None:
            return f"no room elsewhere: {queued.reason}"
        waits = self.mover.begin(plan.moves[0], f"room for {ask.model} of a drained node", at_version=account.version)
        return f"room is made elsewhere{', once ' if waits else ''}{waits}"
