"""Background defragmentation: moves that leave more of the free GPU usable for what is typically asked.

Greedy: each step takes the one move of all that lowers the cluster's expected unusable GPU (see `fragmentation`) the
most, works it out as it would be executed, and goes on from there. It is the fragmentation that placement goes by, so
that a move never undoes what placement would do.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from moorage_scheduler.placement.asks import DEVICE_MILLI
from moorage_scheduler.placement.candidates import EVERYWHERE, Occupants
from moorage_scheduler.placement.decisions import Move
from moorage_scheduler.placement.fragmentation import Klass, Typical, klass
from moorage_scheduler.placement.moves import Step, moved, stepped
from moorage_scheduler.placement.scores import fitting, gradient, has_room
from moorage_scheduler.placement.staging import DEPLOYMENT
from moorage_scheduler.placement.state import Bools, ClusterState, Ints

LEAST_GAIN_MILLI = 20
"""Expected usable GPU that a move must gain to be worth a restart."""
NEVER_GAINS = -(1 << 60)
MOST_FAILED = 32


@dataclass(frozen=True)
class Picture:
    """How usable the free GPU is.

    Attributes:
        free_milli: free of all open nodes; `unusable_milli`: of these, what a typical request is expected not to use.
        idle_devices: wholly free ones; `largest_run`: the most of them on one node.
        nodes_with_idle: by number of idle devices, how many nodes have as many.
    """

    free_milli: int
    unusable_milli: int
    idle_devices: int
    largest_run: int
    nodes_with_idle: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Defragmentation:
    """Moves in executable order, and the cluster before and after them."""

    moves: tuple[Move, ...]
    before: Picture
    after: Picture


def plan(state: ClusterState, *, movable: Callable[[str], bool], most_moves: int) -> Defragmentation:
    """At most `most_moves` moves, the most useful first. No replica moves twice."""
    draft = state.copied()
    if not draft.typical.classes:
        draft.learn(_presumed(state))
    before = picture(draft)
    moves: list[Move] = []
    done: set[str] = set()
    while len(moves) < most_moves:
        move = _best(draft, lambda replica: replica not in done and movable(replica))
        if move is None:
            break
        moves.append(move)
        done.add(move.replica)
        draft.move(move.replica, moved(draft.held[move.replica], move.target))
    return Defragmentation(tuple(moves), before, picture(draft))


def picture(state: ClusterState) -> Picture:
    """How usable the free GPU of `state` is, by the typical requests it has learnt."""
    opened = ~state.closed
    free = state.free_milli.clip(0, DEVICE_MILLI)[opened]
    usable = state.usable
    used = usable.of_nodes(usable.row(state.model[opened], state.free_cpu[opened]), free).sum()
    idle = (free == DEVICE_MILLI).sum(axis=1)
    return Picture(
        free_milli=int(free.sum()),
        unusable_milli=int(free.sum() - used // max(1, usable.total)),
        idle_devices=int(idle.sum()),
        largest_run=int(idle.max(initial=0)),
        nodes_with_idle=tuple(sorted(Counter(idle[idle > 0].tolist()).items())),
    )


def _presumed(state: ClusterState) -> Typical:
    """What is typical where too little was asked to know: half of it what runs, half a whole device."""
    running = [klass(held.ask.shape) for held in state.held.values() if held.ask.deployment != DEPLOYMENT]
    whole: Klass = (10, DEVICE_MILLI, 1, (), ())
    return Typical.of([*running, *([whole] * len(running))])


def _best(state: ClusterState, movable: Callable[[str], bool]) -> Move | None:
    """The move that gains the most, of those that keep every rule."""
    slots = [slot for replica, slot in state.roster.slots.items() if state.roster.movable[slot] and movable(replica)]
    if not slots:
        return None
    leaving = Occupants(state, np.array(sorted(slots)))
    gains = _left_usable(state, leaving)
    least = LEAST_GAIN_MILLI * max(1, state.usable.total)
    found: list[tuple[int, int, int]] = []
    for at, kind in enumerate(leaving.kinds.tolist()):
        replicas = leaving.of_kind(at)
        placing = _placing_gain(state, kind)
        firsts = replicas[(-gains[replicas]).argsort(kind="stable")[:4]]
        targets = (-placing).argsort(kind="stable")[:4]
        for first in firsts.tolist():
            for target in targets.tolist():
                gain = int(gains[first] + placing[target])
                if target != leaving.node[first] and gain >= least:
                    found.append((-gain, first, target))
    for _, first, target in sorted(found)[:MOST_FAILED]:
        slot = int(leaving.slots[first])
        move = stepped(state, state.roster.replicas[slot] or "", Step(slot, target))
        if move is not None:
            return move
    return None


def _left_usable(state: ClusterState, leaving: Occupants) -> Ints:
    """What becomes usable of each one's node when it leaves, in milli times the count of typical asks. Shape (M,)."""
    usable, node = state.usable, leaving.node
    free = state.free_milli[node].clip(0, DEVICE_MILLI)
    before = usable.of_nodes(usable.row(state.model[node], state.free_cpu[node]), free)
    after = free.copy()
    with_gpu = leaving.count > 0
    after[with_gpu, leaving.first[with_gpu]] = leaving.milli_left[with_gpu].clip(0, DEVICE_MILLI)
    for at in np.flatnonzero(leaving.count > 1):
        replica = state.roster.replicas[int(leaving.slots[at])] or ""
        after[at, list(state.held[replica].devices)] = DEVICE_MILLI
    row = usable.row(state.model[node], leaving.cpu_left.astype(np.int64))
    gains: Ints = usable.of_nodes(row, after) - before
    return gains


def _placing_gain(state: ClusterState, kind: int) -> Ints:
    """The change of what is usable of each node when the shape takes its best devices there. Shape (N,)."""
    shape = state.roster.shapes[kind]
    need = state.need(shape.demand)
    devices: Bools = fitting(state, need, EVERYWHERE)
    room = has_room(state, shape, need, EVERYWHERE) & (devices.sum(axis=1) >= need.devices)
    taken = need.milli * need.devices * state.usable.total
    gain = gradient(state, shape, EVERYWHERE, devices).max(axis=1) - taken
    placing: Ints = np.where(room, gain, NEVER_GAINS)
    return placing
