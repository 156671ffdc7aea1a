"""What Ray Serve applications may take beside the replicas. Pure.

A version of a code format is a host like any other, which asks the planner for little. The processes of its application
are Serve's own, in the capacity that `Cluster` leaves out of each node's groups.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from moorage_common.contracts.desired import Resources
from moorage_common.contracts.tensors import CODE_FORMATS

HOST = Resources(cpu_milli=100, host_mem_mib=512)
"""What a host takes that only hands requests on to its application."""
SHORT = "its application may take "
"""How every shortfall begins."""


@dataclass(frozen=True)
class Room:
    """What Serve's processes may take of the cluster together."""

    cpu_milli: int
    gpu_milli: int


def at_host(model_format: str, resources: Resources) -> Resources:
    """What a version's host itself takes of its node."""
    return HOST if model_format in CODE_FORMATS else resources


def shortfall(asked: Resources, others: Iterable[Resources], room: Room) -> str | None:
    """Why an application that may take `asked` has to wait, given what the `others` may take; None where it fits.

    What the others have is not told: they are other tenants'.
    """
    taken = list(others)
    for unit, wanted, used, whole, setting in (
        ("CPU", asked.cpu_milli, sum(r.cpu_milli for r in taken), room.cpu_milli, "MOORAGE_SERVE_CPUS"),
        ("GPU", _gpu_milli(asked), sum(map(_gpu_milli, taken)), room.gpu_milli, "MOORAGE_SERVE_GPUS"),
    ):
        if wanted and used + wanted > whole:
            has = f"Ray Serve has {whole / 1000:g} in all" + ("" if wanted > whole else ", and not as much free now")
            return (
                f"{SHORT}{wanted / 1000:g} {unit} and {has}; lower the version's resources, stop another application, "
                f"or ask the operator for more ({setting})"
            )
    return None


def _gpu_milli(resources: Resources) -> int:
    return resources.gpu_milli * resources.devices
