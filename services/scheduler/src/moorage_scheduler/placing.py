"""A decision made real: the host is in the account from the decision on, then Ray is asked to start it, or a warm host
of the node is made it."""

import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import structlog

from moorage_common.contracts.desired import DesiredVersion, LoadSpec, Resources
from moorage_runtime.gpu_caps import GpuCaps
from moorage_scheduler.cluster import Placed
from moorage_scheduler.hosts import Fleet, Host, Start, VersionKey
from moorage_scheduler.nodes import Nodes
from moorage_scheduler.placement.decisions import Place
from moorage_scheduler.placement.state import DEVICE_MILLI, NodeSize, Shape
from moorage_scheduler.pools import POOL_MODEL, pool_host_id
from moorage_scheduler.warm import Warm

log = structlog.get_logger()


class Configure(Protocol):
    """Makes the JSON of a host's configuration."""

    def __call__(
        self,
        host_id: str,
        tenant: str,
        loads: list[LoadSpec],
        *,
        pool_memory_mib: int = 0,
        caps: GpuCaps | None = None,
    ) -> str: ...


@dataclass(frozen=True)
class Placing:
    """Starts hosts where they were decided to go."""

    fleet: Fleet
    nodes: Nodes
    configure: Configure
    warm: Warm
    pool_memory_mib: int

    def start(self, key: VersionKey, version: DesiredVersion, place: Place, *, moved_from: str = "") -> str:
        """Start a host of `version` at `place`; its id.

        Args:
            moved_from: the host whose place it takes once it is ready.
        """
        tenant, model, number = key
        node = self.nodes.named(place.node)
        taken = self.warm.take(node.ray_id)
        host_id = taken or f"{tenant}.{model}.{number}.{secrets.token_hex(3)}"
        placed = Placed(
            host_id=host_id,
            tenant=tenant,
            model=model,
            version=number,
            purpose="replica",
            node=place.node,
            node_id=node.ray_id,
            devices=list(place.devices),
            asked=version.resources.model_dump(mode="json"),
            started_at=time.time(),
            moved_from=moved_from,
            format=version.load.format,
            gpu_milli=place.gpu_milli,
            scheduling_class=version.scheduling_class,
            priority=version.priority,
            pinned=version.pinned,
        )
        load = _bounded(version, place, node.size)
        config = self.configure(host_id, tenant, [load], caps=_caps(load, place))
        where = {"node": place.node, "devices": place.devices}
        log.info("placing", host_id=host_id, model=model, version=number, moved_from=moved_from, **where)
        self.fleet.start(Start(placed, node.ray_id, place.gpu_milli / DEVICE_MILLI, config, warm=taken is not None))
        return host_id

    def keep_to(self, version: DesiredVersion, hosts: Iterable[Host]) -> None:
        """Account for running hosts as their version is wanted now: its class, its priority, whether it is pinned."""
        said = {name: getattr(version, name) for name in ("scheduling_class", "priority", "pinned")}
        for host in hosts:
            if any(getattr(host.placed, name) != value for name, value in said.items()):
                host.placed = host.placed.model_copy(update=said)
                self.fleet.account.move(host.placed.host_id, host.held())

    def start_pool(self, tenant: str, number: int, asked: Resources, place: Place) -> None:
        """Start a host of a tenant's pool; it is told its versions once it is there."""
        node = self.nodes.named(place.node)
        taken = self.warm.take(node.ray_id)
        placed = Placed(
            host_id=taken or pool_host_id(tenant, number),
            tenant=tenant,
            model=POOL_MODEL,
            version=number,
            purpose="pool",
            node=place.node,
            node_id=node.ray_id,
            devices=[],
            asked=asked.model_dump(mode="json"),
            started_at=time.time(),
        )
        # Its versions are no part of this: what Ray keeps of a long argument dies with this process, and the host is
        # to outlive it.
        config = self.configure(placed.host_id, tenant, [], pool_memory_mib=self.pool_memory_mib)
        log.info("placing a pool", host_id=placed.host_id, tenant=tenant, pool=number, node=place.node)
        self.fleet.start(Start(placed, node.ray_id, 0.0, config, warm=taken is not None))


def _bounded(version: DesiredVersion, place: Place, size: NodeSize) -> LoadSpec:
    """What to load, held to the GPU memory that it asks for on this node."""
    if not place.devices:
        return version.load
    mib = Shape.of(version.resources).demand.on(size)[1]
    return version.load.model_copy(update={"gpu_mem_mib": mib})


def _caps(load: LoadSpec, place: Place) -> GpuCaps | None:
    if not place.devices:
        return None
    return GpuCaps(gpu_milli=place.gpu_milli, gpu_mem_mib=load.gpu_mem_mib, devices=len(place.devices))
