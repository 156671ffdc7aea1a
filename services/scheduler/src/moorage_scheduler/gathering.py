"""Gathering free room: what it would do, as operators see it, and doing it, a move at a time."""

from collections.abc import Collection
from dataclasses import dataclass

import structlog

from moorage_common.contracts.answers import Defragmented, Figures, Moved
from moorage_scheduler.hosts import Fleet
from moorage_scheduler.moves import Mover
from moorage_scheduler.placement.defrag import Defragmentation, Picture, plan
from moorage_scheduler.placement.state import ClusterState
from moorage_scheduler.views import Snapshot, nodes_view

log = structlog.get_logger()

MOVES = 32
"""Of one order, at most: each is a start, and operators look at what became of them."""


def copied(state: ClusterState) -> ClusterState:
    """A state that decides alike, to plan on beside what changes the first."""
    copy = ClusterState.of(state.sizes, state.held)
    copy.close(state.closed_names)
    copy.learn(state.typical)
    return copy


def gathered(state: ClusterState, movable: Collection[str], most: int = MOVES) -> Defragmented:
    """The moves that gather free room in `state`, its figures before and after them, and its nodes as they are.

    Args:
        movable: replicas that may be moved now.
    """
    found = plan(state, movable=movable.__contains__, most_moves=most)
    return view(state, found)


def view(state: ClusterState, found: Defragmentation) -> Defragmented:
    moves = []
    for move in found.moves:
        ask = state.held[move.replica].ask
        moves.append(
            Moved(
                host_id=move.replica,
                tenant=ask.tenant,
                model=ask.model,
                version=ask.version,
                gpu_milli=move.target.gpu_milli,
                from_node=move.source.node,
                from_devices=list(move.source.devices),
                to_node=move.target.node,
                to_devices=list(move.target.devices),
            )
        )
    touched = {name for move in found.moves for name in (move.source.node, move.target.node)}
    nodes = [node for node in nodes_view(Snapshot.of(state), {}, []).nodes if node.name in touched]
    return Defragmented(moves=moves, before=_figures(found.before), after=_figures(found.after), nodes=nodes)


@dataclass
class Gathering:
    """Carries out what operators order: each move is planned on the cluster as it is then, once the last has ended.

    `left` is how many moves are to be made still, at most.
    """

    fleet: Fleet
    mover: Mover
    left: int = 0

    def movable(self, now: float) -> frozenset[str]:
        """The replicas that may be moved now."""
        may_move = self.mover.movable(now)
        return frozenset(host_id for host_id in self.fleet.hosts if may_move(host_id))

    def order(self, most: int) -> None:
        """Make up to so many moves, for as long as they gain."""
        self.left = most

    def step(self, now: float) -> None:
        """Begin the next move, where one is due."""
        if not self.left or next(self.mover.pairs(), None) is not None:
            return
        account = self.fleet.account
        found = plan(account, movable=self.movable(now).__contains__, most_moves=1)
        refused = [
            reason
            for move in found.moves
            if (reason := self.mover.begin(move, "free room is gathered", at_version=account.version))
        ]
        self.left = self.left - 1 if found.moves and not refused else 0
        if not self.left:
            log.info("free room is gathered", why_no_more=refused[0] if refused else "")


def _figures(picture: Picture) -> Figures:
    return Figures(
        free_milli=picture.free_milli,
        fragmented_milli=picture.unusable_milli,
        free_devices=picture.idle_devices,
        largest_run=picture.largest_run,
    )
