"""Why an ask waits and what would give it a place: for operators, since it may name anybody's replicas and nodes."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from moorage_scheduler.placement.asks import DEVICE_MILLI, Ask
from moorage_scheduler.placement.decisions import Queue
from moorage_scheduler.placement.filters import queue, sibling_devices
from moorage_scheduler.placement.repair import repair
from moorage_scheduler.placement.scores import fitting
from moorage_scheduler.placement.state import Bools, ClusterState, Ints


def explain(state: ClusterState, ask: Ask, movable: Callable[[str], bool]) -> Queue:
    """The queue's answer to `ask`, which fits nowhere, with all that would each by itself give it a place."""
    helps = (
        _less_gpu(state, ask),
        _less_host(state, ask),
        _moves(state, ask, movable),
        _more_nodes(state, ask),
    )
    return replace(queue(state, ask), would_fit="; or ".join(one for one in helps if one))


def _open(state: ClusterState, ask: Ask) -> Bools:
    """Nodes of a model and labels that the ask takes, which are not drained."""
    opened: Bools = state.need(ask.shape.demand).allowed & ~state.closed
    return opened


def _host_room(state: ClusterState, ask: Ask) -> Bools:
    enough: Bools = (state.free_cpu >= ask.shape.cpu_milli) & (state.free_mem >= ask.shape.mem_mib)
    return enough


def _usable_devices(state: ClusterState, ask: Ask) -> Bools:
    """Devices without a replica of the same version. Shape (N, D)."""
    devices: Bools = np.arange(state.free_milli.shape[1]) < state.device_count[:, None]
    for at, siblings in sibling_devices(state, ask, same_version=True).items():
        devices[at, list(siblings)] = False
    return devices


def _most_milli(state: ClusterState, ask: Ask) -> Ints:
    """The most of each device that an ask could have which asks less of it: by what is free of it and of its memory,
    of which the ask takes the same share, where it does not say how much. Shape (N, D)."""
    by_memory = np.full_like(state.free_milli, DEVICE_MILLI)
    for at, size in enumerate(state.sizes):
        if size.device_mem_mib:
            said, free = ask.shape.demand.said_mib(size), state.free_mib[at]
            share = ((free + 1) * DEVICE_MILLI - 1) // size.device_mem_mib
            by_memory[at] = np.where(free >= said, DEVICE_MILLI, 0) if said else share
    most: Ints = np.minimum(state.free_milli, by_memory)
    return np.where(_usable_devices(state, ask), most, 0)


def _less_gpu(state: ClusterState, ask: Ask) -> str:
    """The least that the ask would have to ask less of GPU, all else as it is."""
    need = state.need(ask.shape.demand)
    nodes = _open(state, ask) & _host_room(state, ask)
    if not need.devices or not nodes.any():
        return ""
    free = _most_milli(state, ask)[nodes]
    if need.devices > 1:
        most = int((free >= DEVICE_MILLI).sum(axis=1).max())
        return f"with {need.devices - most} device(s) fewer: devices {most}" if 0 < most < need.devices else ""
    short = need.milli[nodes][:, None] - free
    short = np.where((free > 0) & (short > 0), short, DEVICE_MILLI + 1)
    least = int(short.min())
    at = np.unravel_index(int(short.argmin()), short.shape)
    return f"with {least / 1000:g} GPU less: gpu {int(free[at]) / 1000:g}" if least <= DEVICE_MILLI else ""


def _less_host(state: ClusterState, ask: Ask) -> str:
    """The least that the ask would have to ask less of CPU or memory, where that alone is short."""
    need = state.need(ask.shape.demand)
    fits = fitting(state, need, slice(None)) & _usable_devices(state, ask)
    nodes = _open(state, ask) & (fits.sum(axis=1) >= need.devices)
    cpu_short, mem_short = ask.shape.cpu_milli - state.free_cpu, ask.shape.mem_mib - state.free_mem
    helps = []
    for short, enough, free, unit in (
        (cpu_short, mem_short <= 0, state.free_cpu, "CPU milli"),
        (mem_short, cpu_short <= 0, state.free_mem, "MiB of memory"),
    ):
        mask = nodes & enough & (short > 0) & (free > 0)
        if mask.any():
            helps.append(f"with {int(short[mask].min())} {unit} less")
    return "; or ".join(helps)


def _moves(state: ClusterState, ask: Ask, movable: Callable[[str], bool]) -> str:
    found = repair(state.copied(), ask, movable)
    if found is None:
        return ""
    moved = [f"{move.replica} to {move.target.node}" for move in found.moves]
    return f"if {' and then '.join(moved)} moved, on {found.place.node}"


def _more_nodes(state: ClusterState, ask: Ask) -> str:
    """A node of the cluster, the smallest of those that would take the ask if it were empty, to have one more of."""
    need = state.need(ask.shape.demand)
    opened = need.allowed
    fitting_sizes = [
        size
        for at, size in enumerate(state.sizes)
        if opened[at]
        and size.devices >= need.devices
        and (not need.devices or need.milli[at] <= DEVICE_MILLI)
        and (not size.device_mem_mib or need.mib[at] <= size.device_mem_mib)
        and size.cpu_milli >= ask.shape.cpu_milli
        and size.mem_mib >= ask.shape.mem_mib
    ]
    if not fitting_sizes:
        return ""
    smallest = min(fitting_sizes, key=lambda size: (size.devices, size.cpu_milli, size.mem_mib, size.name))
    gpus = f"{smallest.devices} x {smallest.gpu_model or 'GPU'}, " if smallest.devices else ""
    return f"with one more node like {smallest.name} ({gpus}{smallest.cpu_milli} CPU milli)"
