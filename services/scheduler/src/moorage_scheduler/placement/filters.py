"""Which nodes can take a replica: one named predicate each, with a reason for people.

A filter is a mask over all nodes and a sentence about one of them. What a node is refused for is the first filter, in
the order of `FILTERS`, that removes it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from moorage_scheduler.placement.asks import Ask
from moorage_scheduler.placement.decisions import Queue, Removed
from moorage_scheduler.placement.scores import fitting
from moorage_scheduler.placement.state import Bools, ClusterState, Ints

MOST_REASONS = 3


@dataclass(frozen=True)
class Filter:
    """`removes` says of each node whether it cannot take the ask; `closeness` is highest where it nearly could;
    `reason` says why a node cannot."""

    name: str
    removes: Callable[[ClusterState, Ask], Bools]
    closeness: Callable[[ClusterState, Ask], Ints]
    reason: Callable[[ClusterState, Ask, int], str]


def sibling_devices(state: ClusterState, ask: Ask, *, same_version: bool) -> dict[int, set[int]]:
    """By node number, the devices on which replicas of the ask's deployment (or version) sit."""
    found: dict[int, set[int]] = {}
    for held in state.siblings.get(ask.deployment, {}).values():
        at = state.index.get(held.node)
        if at is not None and (not same_version or held.ask.version == ask.version):
            found.setdefault(at, set()).update(d for d in held.devices if d < state.sizes[at].devices)
    return found


def _never(state: ClusterState, _ask: Ask) -> Ints:
    return np.zeros(len(state.sizes), dtype=np.int64)


def _without_model(state: ClusterState, ask: Ask) -> Bools:
    taken = np.array([ask.shape.demand.takes_model(model) for model in state.models], dtype=bool)
    mask: Bools = ~taken[state.model] & (state.device_count > 0)
    return mask


def _model_reason(state: ClusterState, ask: Ask, at: int) -> str:
    wanted = " or ".join(ask.resources.gpu_models)
    return f"its GPU is {state.sizes[at].gpu_model or 'of no known model'}, not {wanted}"


def _without_labels(state: ClusterState, ask: Ask) -> Bools:
    labels = ask.shape.demand.labels
    if not labels:
        return np.zeros(len(state.sizes), dtype=bool)
    return np.array([any(size.labels.get(k) != v for k, v in labels) for size in state.sizes], dtype=bool)


def _labels_reason(state: ClusterState, ask: Ask, at: int) -> str:
    missing = [f"{k}={v}" for k, v in ask.shape.demand.labels if state.sizes[at].labels.get(k) != v]
    return f"it does not carry the label {' or '.join(missing)}"


def _closed_reason(_state: ClusterState, _ask: Ask, _at: int) -> str:
    return "it is drained and takes no more replicas"


def _without_gpu_room(state: ClusterState, ask: Ask) -> Bools:
    need = state.need(ask.shape.demand)
    mask: Bools = fitting(state, need, slice(None)).sum(axis=1) < need.devices
    return mask


def _gpu_closeness(state: ClusterState, ask: Ask) -> Ints:
    devices = ask.shape.demand.devices
    fits = fitting(state, state.need(ask.shape.demand), slice(None)).sum(axis=1)
    closeness: Ints = fits if devices > 1 else state.free_milli.max(axis=1)
    return closeness


def _gpu_reason(state: ClusterState, ask: Ask, at: int) -> str:
    size = state.sizes[at]
    if not size.devices:
        return "it has no GPU"
    need = state.need(ask.shape.demand)
    fits = int(fitting(state, need, np.array([at])).sum())
    milli, mib = ask.shape.demand.on(size)
    return (
        f"{need.devices} device(s) with {milli} milli and {mib} MiB free are needed, {fits} are; "
        f"the freest has {int(state.free_milli[at, : size.devices].max())} milli"
    )


def _without_cpu(state: ClusterState, ask: Ask) -> Bools:
    return state.free_cpu < ask.shape.cpu_milli


def _cpu_reason(state: ClusterState, ask: Ask, at: int) -> str:
    return f"{ask.shape.cpu_milli} CPU milli are needed, {max(0, int(state.free_cpu[at]))} are free"


def _without_memory(state: ClusterState, ask: Ask) -> Bools:
    return state.free_mem < ask.shape.mem_mib


def _memory_reason(state: ClusterState, ask: Ask, at: int) -> str:
    return f"{ask.shape.mem_mib} MiB of memory are needed, {max(0, int(state.free_mem[at]))} are free"


def _beside_siblings(state: ClusterState, ask: Ask) -> Bools:
    """Nodes whose fitting devices are those of replicas of the same version."""
    mask = np.zeros(len(state.sizes), dtype=bool)
    need = state.need(ask.shape.demand)
    for at, devices in sibling_devices(state, ask, same_version=True).items():
        fits = fitting(state, need, np.array([at]))[0]
        fits[list(devices)] = False
        mask[at] = fits.sum() < need.devices
    return mask


def _siblings_reason(_state: ClusterState, _ask: Ask, _at: int) -> str:
    return "another replica of this version sits on each device that has the room"


FILTERS: tuple[Filter, ...] = (
    Filter("gpu_model", _without_model, _never, _model_reason),
    Filter("node_labels", _without_labels, _never, _labels_reason),
    Filter("drained", lambda state, _: state.closed, _never, _closed_reason),
    Filter("gpu_room", _without_gpu_room, _gpu_closeness, _gpu_reason),
    Filter("cpu", _without_cpu, lambda state, _: state.free_cpu, _cpu_reason),
    Filter("memory", _without_memory, lambda state, _: state.free_mem, _memory_reason),
    Filter("anti_affinity", _beside_siblings, _never, _siblings_reason),
)


def removed(state: ClusterState, ask: Ask) -> tuple[Removed, ...]:
    """What each filter that removes nodes is the first to remove, in order; its reason is of the closest node."""
    left = np.ones(len(state.sizes), dtype=bool)
    found: list[Removed] = []
    for one in FILTERS:
        gone = left & one.removes(state, ask)
        if gone.any():
            closest = int(np.where(gone, one.closeness(state, ask), -(1 << 62)).argmax())
            found.append(Removed(one.name, int(gone.sum()), one.reason(state, ask, closest)))
            left &= ~gone
    return tuple(found)


def queue(state: ClusterState, ask: Ask) -> Queue:
    """The answer to an ask that fits nowhere."""
    if not state.sizes:
        return Queue("the cluster has no node yet")
    filters = removed(state, ask)
    most = sorted(filters, key=lambda one: -one.nodes)[:MOST_REASONS]
    return Queue("; ".join(f"on {one.nodes} of {len(state.sizes)} node(s): {one.reason}" for one in most), filters)
