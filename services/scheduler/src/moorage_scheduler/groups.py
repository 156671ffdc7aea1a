"""A node's placement groups: one bundle a GPU, and one CPU bundle, and who is in them. Blocking calls of Ray."""

import time
from collections.abc import Collection

import ray
from ray._private.state import state as global_state
from ray.core.generated.gcs_pb2 import ActorTableData
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


def lost_actors(namespace: str) -> set[str]:
    """Names of the actors in groups of ours that were removed or whose node is not alive.

    Ray goes on trying to restart them, which it never can, and neither says so nor answers calls to them. Its public
    tables do not tell an actor's group, so the control service's own is read.
    """
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    gone = {
        group_id: entry["state"] == "REMOVED" or entry["name"].rpartition("-")[2] not in alive
        for group_id, entry in placement_group_table().items()
        if entry["name"].startswith(f"{PREFIX}-")
    }
    rows = global_state._connect_and_get_accessor().get_actor_table(None, None)  # noqa: SLF001 - see above
    actors = [ActorTableData.FromString(row) for row in rows]
    return {
        actor.name
        for actor in actors
        if actor.ray_namespace == namespace
        and actor.name
        and actor.state != ActorTableData.DEAD
        and gone.get(actor.placement_group_id.hex(), False)
    }
