"""A decision made real: the host is in the account from the decision on, then Ray is asked to start it."""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from moorage_common.contracts.desired import DesiredVersion, LoadSpec
from moorage_scheduler.cluster import Placed
from moorage_scheduler.hosts import Fleet, Start, VersionKey
from moorage_scheduler.nodes import Nodes
from moorage_scheduler.placement.decisions import Place
from moorage_scheduler.placement.state import DEVICE_MILLI, Ask
from moorage_scheduler.serve_apps import at_host

log = structlog.get_logger()

Configure = Callable[[str, str, list[LoadSpec]], str]
"""Host id, tenant and versions to load -> the JSON of a host's configuration."""


@dataclass(frozen=True)
class Placing:
    """Starts hosts where they were decided to go."""

    fleet: Fleet
    nodes: Nodes
    configure: Configure

    def start(self, key: VersionKey, version: DesiredVersion, place: Place, *, moved_from: str = "") -> str:
        """Start a host of `version` at `place`; its id.

        Args:
            moved_from: the host whose place it takes once it is ready.
        """
        tenant, model, number = key
        ask = Ask(tenant, model, number, at_host(version.load.format, version.resources))
        host_id = f"{tenant}.{model}.{number}.{secrets.token_hex(3)}"
        node = self.nodes.named(place.node)
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
        )
        config = self.configure(host_id, tenant, [version.load])
        log.info("placing", host_id=host_id, node=place.node, devices=place.devices, moved_from=moved_from)
        self.fleet.start(Start(placed, node.ray_id, ask.device_milli() / DEVICE_MILLI, config))
        return host_id
