"""The decision where one replica goes: filter, score, pick; ties go to the first node in the fixed order."""

from collections.abc import Mapping, Set

import numpy as np

from moorage_scheduler.placement.asks import Ask, Shape
from moorage_scheduler.placement.decisions import Place, Queue
from moorage_scheduler.placement.filters import queue, sibling_devices
from moorage_scheduler.placement.scores import Policy, Scores, best_devices, has_room, score_rows, scores
from moorage_scheduler.placement.state import ClusterState

NONE: Mapping[int, Set[int]] = {}


def place(state: ClusterState, ask: Ask, policy: Policy = "fgd") -> Place | Queue:
    """Where `ask` goes in `state`, never refusing what fits.

    Replicas of a version never share a device, and have two nodes where that is possible; those of one deployment
    share a device only where nothing else fits. An elastic ask is trimmed only when it fits nowhere whole.
    """
    if not state.sizes:
        return queue(state, ask)
    shape = ask.shape
    found = _best(state, ask, shape, policy)
    if found is None and ask.resources.elastic_pct:
        found = _trimmed(state, ask)
    return found or queue(state, ask)


def _best(state: ClusterState, ask: Ask, shape: Shape, policy: Policy) -> Place | None:
    score = scores(state, shape, policy)
    if ask.deployment not in state.siblings:
        return _picked(state, shape, policy, score, NONE)
    for beside, excluded in apartness(state, ask):
        found = _picked(state, shape, policy, _apart(state, shape, policy, beside, excluded), beside)
        if found is not None:
            return found
    return None


def apartness(state: ClusterState, ask: Ask) -> list[tuple[Mapping[int, Set[int]], Set[int]]]:
    """How far apart from its siblings `ask` is tried to be placed, best first: devices by node, and whole nodes, that
    it does not take."""
    deployment = sibling_devices(state, ask, same_version=False)
    version = sibling_devices(state, ask, same_version=True)
    staying = {
        state.index.get(held.node)
        for held in state.siblings.get(ask.deployment, {}).values()
        if not held.leaving and held.ask.version == ask.version
    }
    alone = {at for at in staying if at is not None} if len(staying) == 1 else set[int]()
    tries: list[tuple[Mapping[int, Set[int]], Set[int]]] = [(deployment, alone)]
    tries += [(version, alone)] if version != deployment else []
    tries += [(deployment, set())] if alone else []
    return [*tries, (version, set())]


def _apart(
    state: ClusterState,
    shape: Shape,
    policy: Policy,
    beside: Mapping[int, Set[int]],
    excluded: Set[int],
) -> Scores:
    apart = scores(state, shape, policy).copy()
    for at, devices in beside.items():
        if devices and apart[at] >= 0:
            blocked = np.zeros((1, state.free_milli.shape[1]), dtype=bool)
            blocked[0, list(devices)] = True
            apart[at] = score_rows(state, shape, policy, np.array([at]), blocked)[0]
    apart[list(excluded)] = -1
    return apart


def _picked(
    state: ClusterState, shape: Shape, policy: Policy, score: Scores, beside: Mapping[int, Set[int]]
) -> Place | None:
    at = int(score.argmax())
    if score[at] < 0:
        return None
    size = state.sizes[at]
    devices = best_devices(state, shape, at, policy, beside.get(at, set()))
    return Place(size.name, devices, shape.demand.on(size)[0] if devices else 0)


def _trimmed(state: ClusterState, ask: Ask) -> Place | None:
    """The place where an elastic ask of one device gets the most of what it asks; of equals the first."""
    need = state.need(ask.shape.demand)
    if need.devices != 1:
        return None
    least = need.milli - need.milli * ask.resources.elastic_pct // 100
    everywhere = slice(None)
    granted = np.minimum(state.free_milli, need.milli[:, None])
    fits = (granted >= least[:, None]) & has_room(state, ask.shape, need, everywhere)[:, None]
    if state.memory_known:
        fits &= state.free_mib >= need.mib[:, None]
    for at, devices in sibling_devices(state, ask, same_version=True).items():
        fits[at, list(devices)] = False
    share = np.where(fits, granted * 1000 // np.maximum(1, need.milli)[:, None], -1)
    at, device = divmod(int(share.argmax()), share.shape[1])
    if share[at, device] < 0:
        return None
    return Place(state.sizes[at].name, (device,), int(granted[at, device]))
