"""What versions and their hosts take of the cluster, as the planner counts it. Pure."""

from moorage_common.contracts.desired import DesiredVersion, Resources
from moorage_scheduler.cluster import Placed
from moorage_scheduler.placement.state import Ask, Held
from moorage_scheduler.serve_room import at_host


def ask_of(version: DesiredVersion) -> Ask:
    """What the next replica of a version asks for."""
    load, resources = version.load, at_host(version.load.format, version.resources)
    return Ask(load.tenant, load.model, load.version, resources, version.scheduling_class, version.priority)


def held_of(placed: Placed) -> Held:
    """What a host takes, as the account keeps it."""
    resources = at_host(placed.format, Resources.model_validate(placed.asked))
    ask = Ask(placed.tenant, placed.model, placed.version, resources, placed.scheduling_class, placed.priority)
    return Held(ask, placed.node, tuple(placed.devices), placed.gpu_milli, placed.pinned, placed.started_at)
