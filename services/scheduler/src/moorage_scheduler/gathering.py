"""Gathering free room: what it would do, as operators see it, and doing it, a few moves at a time."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import structlog

from moorage_common.contracts.answers import Defragmented, Figures, Moved
from moorage_scheduler.hosts import Fleet
from moorage_scheduler.moves import Mover
from moorage_scheduler.placement.decisions import Move
from moorage_scheduler.placement.defrag import Defragmentation, Picture, plan
from moorage_scheduler.placement.state import ClusterState
from moorage_scheduler.views import Snapshot, nodes_view

log = structlog.get_logger()

MOVES = 32
"""Of one order, at most: each is a start, and operators look at what became of them."""
AT_ONCE = 4
LOOK_S = 10.0
HOUR_S = 3600.0


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
    """Carries out what operators order, and a little by itself: moves are planned on the cluster as it is then, those
    that touch none of the same nodes at once, the next ones when these have ended.

    Args:
        an_hour: moves that a token bucket gains an hour, and holds at most, for what nobody ordered.
        left: how many moves are to be made still by order, at most.
    """

    fleet: Fleet
    mover: Mover
    an_hour: int = 0
    left: int = 0
    _tokens: float = 0.0
    _filled_at: float | None = None
    _looked_at: float = 0.0

    def movable(self, now: float) -> frozenset[str]:
        """The replicas that may be moved now."""
        may_move = self.mover.movable(now)
        return frozenset(host_id for host_id in self.fleet.hosts if may_move(host_id))

    def order(self, most: int) -> None:
        """Make up to so many moves, for as long as they gain."""
        self.left = most

    def step(self, now: float, *, waiting: bool = False) -> None:
        """Begin the next moves, where some are due.

        Args:
            waiting: whether replicas wait for a place; what nobody ordered is put off then.
        """
        self._fill(now)
        if next(self.mover.pairs(), None) is not None:
            return
        if self.left:
            begun = self._begin(self.left, now)
            self.left = self.left - begun if begun else 0
            if not self.left:
                log.info("free room is gathered")
        elif self._tokens >= 1.0 and not waiting and now - self._looked_at >= LOOK_S:
            self._looked_at = now
            self._tokens -= self._begin(1, now)

    def _fill(self, now: float) -> None:
        since = 0.0 if self._filled_at is None else now - self._filled_at
        self._tokens = min(float(self.an_hour), self._tokens + self.an_hour * since / HOUR_S)
        self._filled_at = now

    def _begin(self, most: int, now: float) -> int:
        account = self.fleet.account
        found = plan(account, movable=self.movable(now).__contains__, most_moves=min(most, AT_ONCE))
        refused = [
            self.mover.begin(move, "free room is gathered", at_version=account.version)
            for move in independent(found.moves)
        ]
        return refused.count("")


def independent(moves: Iterable[Move]) -> list[Move]:
    """The moves that need none of those before them: they touch none of the same nodes."""
    touched: set[str] = set()
    found = []
    for move in moves:
        nodes = {move.source.node, move.target.node}
        if not nodes & touched:
            found.append(move)
        touched |= nodes
    return found


def _figures(picture: Picture) -> Figures:
    return Figures(
        free_milli=picture.free_milli,
        fragmented_milli=picture.unusable_milli,
        free_devices=picture.idle_devices,
        largest_run=picture.largest_run,
    )
