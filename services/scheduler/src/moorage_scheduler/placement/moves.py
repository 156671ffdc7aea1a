"""Plans of moves worked out in every detail on a draft of the state, each step as it would be executed."""

from collections.abc import Iterator, Set
from dataclasses import dataclass, replace

import numpy as np

from moorage_scheduler.placement.asks import Ask, Held, Shape
from moorage_scheduler.placement.decisions import Move, Place, Repair
from moorage_scheduler.placement.filters import sibling_devices
from moorage_scheduler.placement.scores import best_devices, score_rows, scores
from moorage_scheduler.placement.staging import Stage
from moorage_scheduler.placement.state import ClusterState


@dataclass(frozen=True)
class Step:
    """The way of the replica in a slot: to node number `target`, or (None) to the best that is none of `barred`.

    With a `stage` it takes the place that is set aside there.
    """

    slot: int
    target: int | None
    barred: tuple[int, ...] = ()
    stage: Stage | None = None


def moved(held: Held, target: Place) -> Held:
    """`held` at `target`."""
    return replace(held, node=target.node, devices=target.devices, gpu_milli=target.gpu_milli)


def worked_out(state: ClusterState, ask: Ask, node: int, steps: tuple[Step, ...]) -> Iterator[Repair]:
    """The plan of `steps` and then the ask's place on node number `node`, if it holds in every detail."""
    draft = state.draft()
    moves: list[Move] = []
    for step in steps:
        if step.stage is not None:
            draft.remove(step.stage.replica)
        move = stepped(draft, state.roster.replicas[step.slot] or "", step)
        if move is None:
            return
        moves.append(move)
        draft.move(move.replica, moved(draft.held[move.replica], move.target))
    for step in steps:
        if step.stage is not None:
            draft.add(step.stage.replica, state.held[step.stage.replica])
            if _oversold(draft, step.stage):
                return  # another step took what is set aside
    beside = sibling_devices(draft, ask, same_version=True)
    place = place_on(draft, ask.shape, node, beside.get(node, set()))
    if place is not None:
        yield Repair(tuple(moves), place)


def _oversold(draft: ClusterState, stage: Stage) -> bool:
    at = stage.node
    host = min(draft.free_cpu[at], draft.free_mem[at])
    return bool(min(host, draft.free_milli[at, stage.device], draft.free_mib[at, stage.device]) < 0)


def stepped(draft: ClusterState, replica: str, step: Step) -> Move | None:
    """The move of `step`, if there is one that keeps the replica apart from its siblings."""
    held = draft.held[replica]
    home = draft.index[held.node]
    shape = held.shape_on(draft.sizes[home])
    siblings = [one for name, one in draft.siblings[held.ask.deployment].items() if name != replica]
    beside: dict[int, set[int]] = {}
    for one in siblings:
        beside.setdefault(draft.index.get(one.node, -1), set()).update(one.devices)
    target = step.target
    if target is None:
        score = scores(draft, shape, "fgd").copy()
        score[[home, *step.barred, *(at for at in beside if at >= 0)]] = -1
        target = int(score.argmax())
        if score[target] < 0:
            return None
    spread = {one.node for one in siblings if one.ask.version == held.ask.version}
    if spread == {draft.sizes[target].name} and held.node not in spread:
        return None
    blocked = beside.get(target, set())
    if step.stage is not None:
        blocked = set(range(draft.sizes[target].devices)) - {step.stage.device}
    place = place_on(draft, shape, target, blocked)
    if place is None:
        return None
    milli = shape.demand.on(draft.sizes[home])[0] if held.devices else 0
    return Move(replica, Place(held.node, held.devices, milli), place)


def place_on(state: ClusterState, shape: Shape, node: int, blocked: Set[int]) -> Place | None:
    """Where `shape` goes on node number `node`, devices `blocked` aside; None: it does not fit."""
    mask = np.zeros((1, state.free_milli.shape[1]), dtype=bool)
    mask[0, [device for device in blocked if device < mask.shape[1]]] = True
    if score_rows(state, shape, "firstfit", np.array([node]), mask)[0] < 0:
        return None
    devices = best_devices(state, shape, node, "fgd", blocked)
    return Place(state.sizes[node].name, devices, shape.demand.on(state.sizes[node])[0] if devices else 0)
