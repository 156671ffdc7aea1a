"""Draining nodes: what operators want of a cluster."""

from dataclasses import dataclass

from moorage_common.contracts.answers import Nodes
from moorage_common.contracts.cluster import ClusterIntent
from moorage_common.errors import NotFound
from moorage_registry.clusters.repository import ClusterRepository
from moorage_registry.clusters.tables import ClusterRow
from moorage_registry.work import Work

_NAMED_MAX = 10


def intent_of(row: ClusterRow) -> ClusterIntent:
    return ClusterIntent(cluster=row.name, drained=row.drained)


def check_known(node: str, known: Nodes) -> None:
    """Raises NotFound where the cluster has no such node: a misspelt one would seem to be drained."""
    names = [found.name for found in known.nodes]
    if node not in names:
        listed = ", ".join(names[:_NAMED_MAX]) + (", ..." if len(names) > _NAMED_MAX else "")
        raise NotFound(f"the cluster has no node {node}; it has {listed or 'none'}", code="node_not_found")


@dataclass(frozen=True)
class ClusterService:
    """Changes what is wanted of one cluster, in the operators' name."""

    work: Work
    cluster: str

    async def drain(self, node: str) -> ClusterIntent:
        """Have the node take no more replicas and lose those it has; nothing where it is drained already."""
        row = await ClusterRepository(self.work.session).locked(self.cluster)
        if node not in row.drained:
            self._change(row, sorted([*row.drained, node]), "node.drained", node)
        return intent_of(row)

    async def undrain(self, node: str) -> ClusterIntent:
        """Have the node take replicas again; nothing where it is not drained."""
        row = await ClusterRepository(self.work.session).locked(self.cluster)
        if node in row.drained:
            self._change(row, [name for name in row.drained if name != node], "node.undrained", node)
        return intent_of(row)

    def _change(self, row: ClusterRow, drained: list[str], action: str, node: str) -> None:
        row.drained = drained
        row.version += 1
        self.work.touch("cluster", self.cluster)
        self.work.audit(action, f"clusters/{self.cluster}/nodes/{node}")
