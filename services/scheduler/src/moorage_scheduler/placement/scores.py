"""How good a place is: an integer a node, -1 where the ask does not fit. Higher is better; ties go to the first node.

Scores are kept for each shape and made anew for the nodes that changed since.
"""

from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from moorage_scheduler.placement.asks import DEVICE_MILLI, Shape
from moorage_scheduler.placement.fragmentation import Usable
from moorage_scheduler.placement.state import Bools, ClusterState, Ints, Need, Scored

Policy = Literal["fgd", "bestfit", "firstfit"]
Scores = npt.NDArray[np.int16]
Rows = Ints | slice

MOST_KEPT = 1024
BESTFIT_CPU_MILLI = 128_000
BESTFIT_GPU_MILLI = 8_000
"""What BestFit weighs free CPU and GPU against: the largest node of the trace, as in FGD's artifact."""


def scores(state: ClusterState, shape: Shape, policy: Policy) -> Scores:
    """The score of every node for `shape`. Shape (N,); belongs to the cache: not to be written."""
    kept = state.scored.get((shape, policy))
    if kept is None:
        if len(state.scored) >= MOST_KEPT:
            state.scored.pop(next(iter(state.scored)))
        score = score_rows(state, shape, policy, slice(None))
        state.scored[shape, policy] = Scored(score, state.version)
        return score
    if kept.seen != state.version:
        changed = np.flatnonzero(state.changed_at > kept.seen)
        kept.seen = state.version
        if changed.size:
            kept.score[changed] = score_rows(state, shape, policy, changed)
    return kept.score


def score_rows(state: ClusterState, shape: Shape, policy: Policy, rows: Rows, blocked: Bools | None = None) -> Scores:
    """The scores of nodes `rows`, where devices `blocked` (rows, D) are not to be used."""
    need = state.need(shape.demand)
    devices = fitting(state, need, rows)
    if blocked is not None:
        devices &= ~blocked
    room = has_room(state, shape, need, rows)
    if need.devices:
        room &= devices.sum(axis=1) >= need.devices
    value = SCORES[policy](state, shape, rows, devices)
    return np.where(room, value, -1).astype(np.int16)


def fitting(state: ClusterState, need: Need, rows: Rows) -> Bools:
    """Which devices of nodes `rows` have the milli and MiB. Shape (rows, D)."""
    fits: Bools = state.free_milli[rows] >= need.milli[rows][:, None]
    if state.memory_known:
        fits &= state.free_mib[rows] >= need.mib[rows][:, None]
    return fits


def has_room(state: ClusterState, shape: Shape, need: Need, rows: Rows) -> Bools:
    """Which of nodes `rows` are open, allowed, and have the CPU and memory. Shape (rows,)."""
    enough: Bools = (state.free_cpu[rows] >= shape.cpu_milli) & (state.free_mem[rows] >= shape.mem_mib)
    enough &= need.allowed[rows] & ~state.closed[rows]
    return enough


def gradient(state: ClusterState, shape: Shape, rows: Rows, devices: Bools) -> Ints:
    """How many milli (times the count of typical asks) fewer are unusable after placing on each device.

    Shape (rows, D); one column for shapes of no device or of several. Devices not in `devices` get a low value.
    """
    usable, need = state.usable, state.need(shape.demand)
    free = state.free_milli[rows].clip(0, DEVICE_MILLI)
    model, cpu = state.model[rows], state.free_cpu[rows]
    everywhere = isinstance(rows, slice)
    before = usable_now(state) if everywhere else usable.of_nodes(usable.row(model, cpu), free)
    row = usable.row(model, cpu - shape.cpu_milli)
    if need.devices != 1:
        left = free
        if need.devices:
            left = np.where(devices & (devices.cumsum(axis=1) <= need.devices), 0, free)
        after = usable.of_nodes(row, left)
        change: Ints = ((free - left).sum(axis=1) * usable.total - before + after)[:, None]
        return change
    milli = need.milli[rows][:, None]
    left = (free - milli).clip(0)
    base = (row * (DEVICE_MILLI + 1))[:, None]
    was = usable.flat[base + free]
    after = was.sum(axis=1)[:, None] - was + usable.flat[base + left]
    idle = free == DEVICE_MILLI
    several = usable.several[(row * usable.width + idle.sum(axis=1))[:, None] - idle]
    change = milli * usable.total - before[:, None] + after + several
    return np.where(devices, change, -(1 << 60))


@dataclass
class _Kept:
    """What was usable of every node at version `seen`, by these tables."""

    tables: Usable
    seen: int
    usable: Ints


def usable_now(state: ClusterState) -> Ints:
    """What the typical classes can use of every node, milli times their count. Shape (N,); kept, not to be written."""
    kept = state.derived.get("usable")
    if not isinstance(kept, _Kept) or kept.tables is not state.usable:
        kept = state.derived["usable"] = _Kept(state.usable, 0, np.zeros(len(state.sizes), dtype=np.int64))
    changed = np.flatnonzero(state.changed_at > kept.seen)
    kept.seen = state.version
    free = state.free_milli[changed].clip(0, DEVICE_MILLI)
    row = kept.tables.row(state.model[changed], state.free_cpu[changed])
    kept.usable[changed] = kept.tables.of_nodes(row, free)
    return kept.usable


def squashed(change: Ints, total: int) -> Ints:
    """int(100 * sigmoid(change in devices)): coarse on purpose, so that near-equal places tie."""
    devices = change / (DEVICE_MILLI * max(1, total))
    squashed: Ints = (100.0 / (1.0 + np.exp(-devices.clip(-30, 30)))).astype(np.int64)
    return squashed


def fgd(state: ClusterState, shape: Shape, rows: Rows, devices: Bools) -> Ints:
    return squashed(gradient(state, shape, rows, devices).max(axis=1), state.usable.total)


def bestfit(state: ClusterState, shape: Shape, rows: Rows, _devices: Bools) -> Ints:
    """The least weighted CPU and GPU left, of the whole node."""
    need = state.need(shape.demand)
    cpu = (state.free_cpu[rows] - shape.cpu_milli) / BESTFIT_CPU_MILLI
    gpu = (state.free_milli[rows].sum(axis=1) - need.milli[rows] * need.devices) / BESTFIT_GPU_MILLI
    score: Ints = ((1.0 - 0.5 * cpu - 0.5 * gpu) * 100).clip(0, 100).astype(np.int64)
    return score


def firstfit(state: ClusterState, _shape: Shape, rows: Rows, _devices: Bools) -> Ints:
    return np.zeros(len(state.free_cpu[rows]), dtype=np.int64)


SCORES: dict[Policy, Callable[[ClusterState, Shape, Rows, Bools], Ints]] = {
    "fgd": fgd,
    "bestfit": bestfit,
    "firstfit": firstfit,
}


def best_devices(
    state: ClusterState, shape: Shape, at: int, policy: Policy, blocked: Set[int] = frozenset()
) -> tuple[int, ...]:
    """The devices that `shape`, which fits node number `at`, takes there: of equals the first."""
    need = state.need(shape.demand)
    if not need.devices:
        return ()
    row = np.array([at])
    devices = fitting(state, need, row)
    devices[0, list(blocked)] = False
    candidates = np.flatnonzero(devices[0])
    if need.devices > 1 or len(candidates) == 1:
        return tuple(candidates[: need.devices].tolist())
    if policy == "fgd" and state.usable.total:
        value = squashed(gradient(state, shape, row, devices), state.usable.total)[0, candidates]
        return (int(candidates[value.argmax()]),)
    return (int(candidates[state.free_milli[at, candidates].argmin()]),)
