"""A cluster of two nodes, one with T4s and one with an H100, and what is asked of it."""

from typing import Any

from moorage_common.contracts.desired import Resources
from moorage_scheduler.placement.state import Ask, ClusterState, Held, NodeSize

SIZES = [NodeSize("a", 2, 4000, 8192, "T4", 16384), NodeSize("b", 1, 4000, 8192, "H100", 81920)]


def resources(milli: int, **more: Any) -> Resources:
    return Resources.model_validate({"gpu_milli": milli, "cpu_milli": 100, "host_mem_mib": 64, **more})


def ask(milli: int, model: str = "m", tenant: str = "acme", **more: Any) -> Ask:
    return Ask(tenant, model, 1, resources(milli, **more))


def cluster_of(**held: Held) -> ClusterState:
    return ClusterState.of(SIZES, held)
