"""What a Ray node is for placement: its resources and labels, as Ray tells of them."""

from typing import Any

from moorage_scheduler.placement.state import NodeSize

LABEL_DEVICE_MIB = "moorage.io/gpu-memory-mib"
LABEL_GPU_MODEL = "ray.io/accelerator-type"
LABEL_NODE_NAME = "moorage.io/node"


def size_of(entry: dict[str, Any]) -> NodeSize:
    """The whole node, of an entry of `ray.nodes()`."""
    resources, labels = entry["Resources"], entry["Labels"]
    return NodeSize(
        name=labels.get(LABEL_NODE_NAME) or f"{entry['NodeManagerHostname']}-{entry['NodeID'][:6]}",
        devices=int(resources.get("GPU", 0)),
        cpu_milli=int(resources.get("CPU", 0) * 1000),
        mem_mib=int(resources.get("memory", 0)) // (1024 * 1024),
        gpu_model=labels.get(LABEL_GPU_MODEL, ""),
        device_mem_mib=int(labels.get(LABEL_DEVICE_MIB, 0)),
        labels=labels,
    )
