"""Why a deployment's replicas are where they are, or wait: sentences that tell nothing of other tenants. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from moorage_common.contracts.answers import Explanation, Placement, Removed, VersionExplanation
from moorage_common.contracts.desired import DesiredVersion, ReplicaState, Resources
from moorage_scheduler.asking import ask_of
from moorage_scheduler.placement.explain import explain
from moorage_scheduler.placement.filters import removed
from moorage_scheduler.placement.state import Ask, ClusterState
from moorage_scheduler.serve_room import SHORT

ADOPTED = "placed before this scheduler took over"
MOVED = "moved here, to empty its node, to gather free room or to make some"
POOLED = "in the process that the tenant's pooled versions share"


@dataclass(frozen=True)
class Placed:
    """A replica with a place: how it is, where, and why there."""

    host_id: str
    state: ReplicaState
    node: str
    devices: tuple[int, ...]
    gpu_milli: int
    why: str


@dataclass(frozen=True)
class Standing:
    """One version as the scheduler has it: what is wanted, what has a place, why others wait or none is to run."""

    version: DesiredVersion
    wanted: int
    placed: Sequence[Placed]
    waiting: Sequence[str]
    failure: str = ""


def explanation(
    model: str, state: ClusterState, standings: Sequence[Standing], movable: Callable[[str], bool] | None
) -> Explanation:
    """Each version; the filters of those of which replicas wait.

    Args:
        movable: whether a replica may be moved now; given where an operator asks, who may hear of anybody's replicas.
    """
    return Explanation(model=model, versions=[_version(state, standing, movable) for standing in standings])


def _version(state: ClusterState, standing: Standing, movable: Callable[[str], bool] | None) -> VersionExplanation:
    told = VersionExplanation(
        version=standing.version.load.version,
        wanted=standing.wanted,
        placed=[
            Placement(
                host_id=one.host_id,
                state=one.state,
                node=one.node,
                devices=list(one.devices),
                gpu_milli=one.gpu_milli,
                why=one.why or ADOPTED,
            )
            for one in standing.placed
        ],
        waiting=len(standing.waiting),
        nodes=len(state.sizes),
    )
    if standing.failure:
        return told.model_copy(update={"reason": f"given up until what is deployed changes: {standing.failure}"})
    if not standing.waiting:
        return told.model_copy(update={"reason": _why_none(standing)})
    ask = ask_of(standing.version)
    if movable is not None:
        return told.model_copy(update=_everything(state, ask, standing.waiting[0], movable))
    gone = removed(state, ask)
    fit = len(state.sizes) - sum(one.nodes for one in gone)
    return told.model_copy(
        update={
            "reason": _why_waiting(ask.tenant, state, fit, standing.waiting[0]),
            "removed": [
                Removed(filter=one.filter, nodes=one.nodes, reason=sentence(one.filter, standing.version.resources))
                for one in gone
            ],
            "would_fit": would_fit(state, ask),
        }
    )


def _everything(state: ClusterState, ask: Ask, reason: str, movable: Callable[[str], bool]) -> dict[str, object]:
    found = explain(state, ask, movable)
    told = [Removed(filter=one.filter, nodes=one.nodes, reason=one.reason) for one in found.filters]
    return {"reason": reason, "removed": told, "would_fit": [one for one in found.would_fit.split("; or ") if one]}


def _why_none(standing: Standing) -> str:
    if standing.wanted or standing.placed:
        return ""
    return (
        f"it has no replica, since nobody asked for it within {standing.version.idle_s} s; the next request starts one"
    )


def _why_waiting(tenant: str, state: ClusterState, fit: int, reason: str) -> str:
    if not state.sizes:
        return "the cluster has no node yet"
    if not fit:
        return "no node can take it now"
    # Of other reasons only those of the tenant's own share and of Serve's room name nobody else.
    own = (
        reason
        if reason.startswith((f"tenant {tenant} ", SHORT))
        else "it is its turn next, or room is being made for it"
    )
    return f"{fit} of {len(state.sizes)} nodes could take it: {own}"


def sentence(name: str, asked: Resources) -> str:
    """Why a filter removes a node, by what is asked for alone: how full nodes are is other tenants' matter."""
    memory = f" and {asked.gpu_mem_mib} MiB" if asked.gpu_mem_mib else ""
    devices = f"{asked.devices} devices" if asked.devices > 1 else "a device"
    sentences: Mapping[str, str] = {
        "gpu_model": f"their GPU is not {' or '.join(asked.gpu_models) or 'one that it may run on'}",
        "node_labels": f"they do not carry {', '.join(f'{k}={v}' for k, v in asked.node_labels.items())}",
        "drained": "operators empty them",
        "gpu_room": f"no room for {devices} with {asked.gpu_milli} milli{memory}",
        "cpu": f"less than {asked.cpu_milli} CPU milli are free",
        "memory": f"less than {asked.host_mem_mib} MiB of memory are free",
        "anti_affinity": "another replica of this version sits on each device with the room",
    }
    return sentences.get(name, "")


def would_fit(state: ClusterState, ask: Ask) -> list[str]:
    """Changes of what is asked for, each of which by itself would give it a place now."""
    asked = ask.resources
    found: list[str] = []
    for text, other in _changes(asked):
        changed = Ask(ask.tenant, ask.model, ask.version, asked.model_copy(update=other))
        if sum(one.nodes for one in removed(state, changed)) < len(state.sizes):
            found.append(text)
    return found


def _changes(asked: Resources) -> list[tuple[str, dict[str, object]]]:
    """Of each kind the largest first; only the first that fits is worth telling, so each stands alone."""
    changes: list[tuple[str, dict[str, object]]] = []
    if asked.gpu_models:
        changes.append(("any GPU model, not only those in gpu_models", {"gpu_models": []}))
    if asked.node_labels:
        changes.append(("any node: no node_labels", {"node_labels": {}}))
    if asked.gpu_mem_mib:
        changes.append(("half the GPU memory", {"gpu_mem_mib": max(1, asked.gpu_mem_mib // 2)}))
    if asked.devices > 1:
        changes.append((f"{asked.devices - 1} device(s) a replica", {"devices": asked.devices - 1}))
    elif asked.gpu_milli > 1:
        half = max(1, asked.gpu_milli // 2)
        changes.append((f"half the GPU: gpu {half / 1000:g}", {"gpu_milli": half, "gpu_profiles": {}}))
    changes.append(
        (f"half the CPU: cpu {max(10, asked.cpu_milli // 2)}m", {"cpu_milli": max(10, asked.cpu_milli // 2)})
    )
    memory = max(64, asked.host_mem_mib // 2)
    changes.append((f"half the memory: memory {memory}Mi", {"host_mem_mib": memory}))
    return changes
