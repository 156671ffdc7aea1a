"""Ray Serve applications beside the replicas: whether there is room, and their end when their hosts are gone."""

from collections.abc import Iterable

import ray
import structlog

from moorage_common.contracts.desired import DesiredVersion, Resources
from moorage_common.contracts.tensors import CODE_FORMATS
from moorage_scheduler.cluster import NAMESPACE, Cluster, Placed, RayNode
from moorage_scheduler.serve_room import Room, shortfall

log = structlog.get_logger()

APP_PREFIX = "moorage."
"""Of applications' names; the rest is the name of the host that they belong to (`moorage_runtime.formats`)."""
_CONTROLLER = {"name": "SERVE_CONTROLLER_ACTOR", "namespace": "serve"}
_SWEEP_TIMEOUT_S = 20.0


def without_room(version: DesiredVersion, placed: Iterable[Placed], nodes: Iterable[RayNode]) -> str | None:
    """Why Serve has no room for one more application of `version`; None where it has, or the format is data.

    Args:
        placed: all hosts there are.
    """
    if version.load.format not in CODE_FORMATS:
        return None
    others = [Resources.model_validate(one.asked) for one in placed if one.format in CODE_FORMATS]
    kept = list(nodes)
    room = Room(sum(node.serve_cpu_milli for node in kept), 1000 * sum(node.serve_devices for node in kept))
    return shortfall(version.resources, others, room)


async def sweep(cluster: Cluster) -> list[str]:
    """Have Serve end the applications whose host is gone; their names. Raises ClusterUnreachable, HostGone."""
    stray = await cluster.ask_ray(_stray, _SWEEP_TIMEOUT_S) if cluster.may_act() else []
    if stray and cluster.may_act():
        log.warning("ending applications whose hosts are gone", applications=stray)
        await cluster.ask_ray(lambda: _delete(stray), _SWEEP_TIMEOUT_S)
    return stray


def _stray() -> list[str]:
    if _CONTROLLER not in ray.util.list_named_actors(all_namespaces=True):
        return []
    from ray import serve  # noqa: PLC0415 - half a second, where there is nothing to sweep for nothing

    # An application is looked for before its host is: it is never there without a host that was there before.
    applications = [name for name in serve.status().applications if name.startswith(APP_PREFIX)]
    actors = ray.util.list_named_actors(all_namespaces=True)
    hosts = {actor["name"] for actor in actors if actor["namespace"] == NAMESPACE}
    return [name for name in applications if name.removeprefix(APP_PREFIX) not in hosts]


def _delete(names: list[str]) -> None:
    from ray import serve  # noqa: PLC0415 - as above

    for name in names:
        serve.delete(name, _blocking=False)
