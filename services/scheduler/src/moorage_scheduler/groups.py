"""A node's placement groups: one bundle a GPU, and one CPU bundle. Blocking calls of Ray."""

import time
from collections.abc import Collection

import ray
from ray.util.placement_group import (
    PlacementGroup,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

PREFIX = "moorage"
GRANT_TIMEOUT_S = 20.0


def gpu_group(ray_id: str) -> str:
    """Name of the group of a node's GPUs."""
    return f"{PREFIX}-gpu-{ray_id}"


def cpu_group(ray_id: str) -> str:
    """Name of the group for replicas without a GPU."""
    return f"{PREFIX}-cpu-{ray_id}"


def ensure(name: str, bundles: list[dict[str, float]], ray_id: str) -> PlacementGroup:
    """The group, made when absent. Raises ConnectionError when Ray does not grant it in time."""
    try:
        group = get_placement_group(name)
    except ValueError:
        group = placement_group(
            bundles,
            strategy="STRICT_PACK",
            lifetime="detached",
            name=name,
            bundle_label_selector=[{"ray.io/node-id": ray_id}] * len(bundles),
        )
    started = time.monotonic()
    if not group.wait(int(GRANT_TIMEOUT_S)):
        message = f"placement group {name} was not granted within {time.monotonic() - started:.0f} s"
        raise ConnectionError(message)
    return group


def remove_except(alive: Collection[str]) -> list[str]:
    """Remove the groups of nodes whose id of Ray is not among `alive`, whoever made them; their names."""
    removed = []
    for group_id, entry in placement_group_table().items():
        kind, _, ray_id = entry["name"].removeprefix(f"{PREFIX}-").partition("-")
        ours = entry["name"].startswith(f"{PREFIX}-") and kind in ("gpu", "cpu")
        if ours and entry["state"] != "REMOVED" and ray_id not in alive:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group_id))))
            removed.append(entry["name"])
    return removed
