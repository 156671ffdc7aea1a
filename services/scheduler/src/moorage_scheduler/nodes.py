"""The nodes of the cluster: those that live, their groups, and those that went away."""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import structlog

from moorage_scheduler.cluster import Cluster, ClusterUnreachable, RayNode
from moorage_scheduler.placement.state import ClusterState

log = structlog.get_logger()


@dataclass
class Nodes:
    """Nodes that can take hosts: alive for Ray and with their groups granted.

    Args:
        grace_s: how long hosts of a node that went away keep their place in the account, in case it comes back.
        on_change: called when the live or the drained nodes became others.
    """

    cluster: Cluster
    account: ClusterState
    grace_s: float
    on_change: Callable[[], None]
    drained: frozenset[str] = frozenset()
    live: list[RayNode] = field(default_factory=list)
    _alive: frozenset[str] | None = None
    _away_since: dict[str, float] = field(default_factory=dict)

    def named(self, name: str) -> RayNode:
        """Raises KeyError for a node that is not live."""
        for node in self.live:
            if node.size.name == name:
                return node
        raise KeyError(name)

    @property
    def open(self) -> list[RayNode]:
        """Those that may take more."""
        return [node for node in self.live if node.size.name not in self.drained]

    def drain(self, names: Iterable[str]) -> None:
        """Exactly these nodes take nothing more, whether they live now or come later."""
        drained = frozenset(names)
        if drained != self.drained:
            log.info("drained nodes", nodes=sorted(drained))
            self.drained = drained
            self.account.close(drained)
            self.on_change()

    async def refresh(self) -> None:
        """Read the nodes, make groups of new ones, remove those of nodes that are gone. Raises ClusterUnreachable."""
        nodes = await self.cluster.nodes()
        alive = frozenset(node.ray_id for node in nodes)
        if alive != self._alive:
            await self.cluster.remove_groups_except(alive)
            self._alive = alive
        granted = await asyncio.gather(*(self._has_groups(node) for node in nodes))
        live = [node for node, usable in zip(nodes, granted, strict=True) if usable]
        if live != self.live:
            log.info("nodes", nodes=[f"{node.size.name}: {node.size.devices} GPU" for node in live])
            self.live = live
            self.account.set_nodes(node.size for node in live)
            self.on_change()

    async def _has_groups(self, node: RayNode) -> bool:
        try:
            await self.cluster.ensure_groups(node)
        except ClusterUnreachable as error:
            log.warning("a node without its groups takes nothing", node=node.size.name, error=str(error)[:200])
            return False
        return True

    def lost(self, used: Iterable[tuple[str, str]], now: float | None = None) -> set[str]:
        """Ray's ids of the nodes among `used` that are away for good.

        A node that was restarted comes back under its name with another id: what ran on the old one is gone then.

        Args:
            used: names and Ray's ids of the nodes that hosts sit on.
        """
        now = time.monotonic() if now is None else now
        alive = self._alive or frozenset()
        names = {node.size.name for node in self.live}
        away = {ray_id: name for name, ray_id in used if ray_id not in alive}
        self._away_since = {ray_id: self._away_since.get(ray_id, now) for ray_id in away}
        return {
            ray_id for ray_id, name in away.items() if name in names or now - self._away_since[ray_id] >= self.grace_s
        }
