"""What a tenant's deployments may grow to together, held to its limits. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from moorage_common.contracts.keys import TenantLimits
from moorage_common.errors import Unprocessable
from moorage_registry.deployments.models import PlacedVersion
from moorage_registry.deployments.resources import most_milli

REPLICAS_A_TENANT = 64
"""The most replicas that the deployments of a tenant may grow to together."""
POOLED_A_REPLICA = 100
"""Pooled versions that share processes, as many as the one of them that may have the most."""
POOL_BYTES = 2 * 1024**3
"""Of artifacts that share processes: as many as the scheduler puts in a pool of the usual size."""
POOLED_FLOOR_BYTES = 128 * 1024
"""What the smallest pooled version counts for, as in the scheduler."""
POOL_CPU_MILLI = 50
POOL_MEM_MIB = 512
"""What a process of a pool of the usual size takes of its node."""


@dataclass(frozen=True)
class Counted:
    """A version as it counts; the bytes of its artifact matter where it is pooled."""

    placed: PlacedVersion
    artifact_bytes: int = 0


@dataclass(frozen=True)
class Growth:
    """The most that versions may come to.

    `gpu_milli` is time alone: what part of a device `gpu_mem_mib` is depends on the device. The scheduler, which knows
    where a replica goes, charges the memory too and holds it to the same limit.
    """

    replicas: int
    gpu_milli: int
    cpu_milli: int
    mem_mib: int


def growth(versions: Sequence[Counted]) -> Growth:
    """What `versions` may grow to: `scaling.max` of each dedicated one, and the processes of the pools."""
    dedicated = [one.placed for one in versions if one.placed.isolation != "pooled"]
    pools = _pool_processes(one for one in versions if one.placed.isolation == "pooled")
    return Growth(
        replicas=sum(v.scaling.max for v in dedicated) + pools,
        gpu_milli=sum(v.scaling.max * most_milli(v.resources) for v in dedicated),
        cpu_milli=sum(v.scaling.max * v.resources.cpu_milli for v in dedicated) + pools * POOL_CPU_MILLI,
        mem_mib=sum(v.scaling.max * v.resources.host_mem_mib for v in dedicated) + pools * POOL_MEM_MIB,
    )


def _pool_processes(pooled: Iterable[Counted]) -> int:
    """A pool has as many processes as the version in it that may have the most."""
    processes = count = used = 0
    for most, artifact_bytes in sorted(((one.placed.scaling.max, one.artifact_bytes) for one in pooled), reverse=True):
        size = POOLED_FLOOR_BYTES + artifact_bytes
        if not count or count >= POOLED_A_REPLICA or used + size > POOL_BYTES:
            processes, count, used = processes + most, 0, 0
        count, used = count + 1, used + size
    return processes


def check(grown: Growth, limits: TenantLimits) -> None:
    """Raises Unprocessable when the most that the tenant's deployments may run is more than its share."""
    if grown.replicas > REPLICAS_A_TENANT:
        message = (
            f"this tenant's deployments could grow to {grown.replicas} replicas and {REPLICAS_A_TENANT} is the most; "
            "lower scaling.max, or let small models share processes with isolation pooled"
        )
        raise Unprocessable(message, code="replica_quota")
    if grown.gpu_milli > limits.gpu_milli:
        message = (
            f"this tenant's deployments could grow to {grown.gpu_milli / 1000:g} GPU and its share is "
            f"{limits.gpu_milli / 1000:g}; lower scaling.max, gpu_milli or the largest of gpu_profiles, "
            "or ask the operator for more"
        )
        raise Unprocessable(message, code="gpu_quota")
    if grown.cpu_milli > limits.cpu_milli:
        message = (
            f"this tenant's deployments could grow to {grown.cpu_milli / 1000:g} CPU and its share is "
            f"{limits.cpu_milli / 1000:g}; lower scaling.max or cpu_milli, or ask the operator for more"
        )
        raise Unprocessable(message, code="cpu_quota")
    if grown.mem_mib > limits.mem_mib:
        message = (
            f"this tenant's deployments could grow to {grown.mem_mib} MiB of memory and its share is "
            f"{limits.mem_mib} MiB; lower scaling.max or host_mem_mib, or ask the operator for more"
        )
        raise Unprocessable(message, code="memory_quota")
