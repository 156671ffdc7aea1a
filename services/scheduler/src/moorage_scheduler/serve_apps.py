"""Ray Serve applications beside the replicas: what they may take, and what is left of them when their hosts are gone.

A version of a code format is a host like any other, which asks the planner for little. The processes of its application
are Serve's own, in the capacity that `Cluster` leaves out of each node's groups.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import ray
import structlog

from moorage_common.contracts.desired import DesiredVersion, Resources
from moorage_common.contracts.tensors import CODE_FORMATS
from moorage_scheduler.cluster import NAMESPACE, Cluster, Placed, RayNode

log = structlog.get_logger()

APP_PREFIX = "moorage."
"""Of applications' names; the rest is the name of the host that they belong to (`moorage_runtime.formats`)."""
HOST = Resources(cpu_milli=100, host_mem_mib=512)
"""What a host takes that only hands requests on to its application."""
_CONTROLLER = {"name": "SERVE_CONTROLLER_ACTOR", "namespace": "serve"}
_SWEEP_TIMEOUT_S = 20.0


def at_host(model_format: str, resources: Resources) -> Resources:
    """What a version's host itself takes of its node."""
    return HOST if model_format in CODE_FORMATS else resources


@dataclass(frozen=True)
class Room:
    """What Serve's processes may take of the cluster together."""

    cpu_milli: int
    gpu_milli: int

    @classmethod
    def of(cls, nodes: Iterable[RayNode]) -> "Room":
        kept = list(nodes)
        return cls(sum(node.serve_cpu_milli for node in kept), sum(node.serve_devices * 1000 for node in kept))


def without_room(version: DesiredVersion, placed: Iterable[Placed], nodes: Iterable[RayNode]) -> str | None:
    """Why Serve has no room for one more application of `version`; None where it has, or the format is data.

    Args:
        placed: all hosts there are.
    """
    if version.load.format not in CODE_FORMATS:
        return None
    others = [Resources.model_validate(one.asked) for one in placed if one.format in CODE_FORMATS]
    return shortfall(version.resources, others, Room.of(nodes))


def shortfall(asked: Resources, others: Iterable[Resources], room: Room) -> str | None:
    """Why an application that may take `asked` has to wait, given what the `others` may take; None where it fits."""
    taken = list(others)
    for unit, wanted, used, whole, setting in (
        ("CPU", asked.cpu_milli, sum(r.cpu_milli for r in taken), room.cpu_milli, "MOORAGE_SERVE_CPUS"),
        ("GPU", _gpu_milli(asked), sum(map(_gpu_milli, taken)), room.gpu_milli, "MOORAGE_SERVE_GPUS"),
    ):
        if wanted and used + wanted > whole:
            left = f"{max(0, whole - used) / 1000:g} of {whole / 1000:g}"
            return (
                f"its application may take {wanted / 1000:g} {unit} and Ray Serve has {left} left; lower the version's "
                f"resources, stop another application, or ask the operator for more ({setting})"
            )
    return None


def _gpu_milli(resources: Resources) -> int:
    return resources.gpu_milli * resources.devices


async def sweep(cluster: Cluster) -> list[str]:
    """Have Serve end the applications whose host is gone; their names. Raises ClusterUnreachable."""
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
