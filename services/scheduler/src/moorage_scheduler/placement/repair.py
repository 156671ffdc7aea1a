"""Room by moving others: the cheapest plan of at most two replicas' moves after which an ask fits.

One move: a leaves n for another node. A chain: b leaves n2 for a third node, a leaves n for n2. A swap: b leaves n2
for n, a leaves n for n2. In each the ask then takes the room on n. Every move fits while its old place is still held.
A swap does where b fits beside a; else one of the two waits in a place set aside for staging: a third move.

Cost: moves, then GPU milli moved, then CPU milli moved; of equals the first.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from moorage_scheduler.placement.asks import Ask
from moorage_scheduler.placement.candidates import Fits, Occupants, exchangeable, fits_of
from moorage_scheduler.placement.decisions import Repair
from moorage_scheduler.placement.filters import sibling_devices
from moorage_scheduler.placement.moves import Step, moved, worked_out
from moorage_scheduler.placement.staging import staging_places
from moorage_scheduler.placement.state import Bools, ClusterState, Ints

RETRIED_AFTER = 10
"""A shape for which no plan was found is not searched for again until so many repairs or departures later."""
MOST_TRIES = 16
"""Candidates that are worked out before a search gives up: few fail, on rules that only a whole plan shows."""

FEW = 3

Movable = Callable[[str], bool]


def repair(state: ClusterState, ask: Ask, movable: Movable) -> Repair | None:
    """The cheapest plan that makes room for `ask`, which fits nowhere; None: there is none, or it was sought lately.

    Args:
        movable: whether a replica may be moved now; pinned ones never are.
    """
    if not state.sizes or not state.roster.slots:
        return None
    sought = (ask.shape, ask.deployment if ask.deployment in state.siblings else ("", ""))
    failures = state.failures
    failed_at = failures.failed_at.get(sought)
    if failed_at is not None and failures.turnover - failed_at < RETRIED_AFTER:
        return None
    failures.searches += 1
    found = next(_Search.of(state, ask, movable).plans(), None)
    if found is None:
        failures.failed_at[sought] = failures.turnover
    return found


def carry_out(state: ClusterState, plan: Repair) -> None:
    """Change `state` as the moves of `plan` do once they are done."""
    for move in plan.moves:
        state.move(move.replica, moved(state.held[move.replica], move.target))
    state.failures.turnover += 1


@dataclass(frozen=True)
class _Pair:
    """A kind of which one replica makes room for the ask, and one that makes room for the former, by place in
    `unlocking.kinds` and `others.kinds`."""

    cost: int
    first: int
    second: int
    how: str


@dataclass(frozen=True)
class _Search:
    """Attributes:
    others: all that may be moved; `unlocking`: those without which the ask would fit on their node.
    """

    state: ClusterState
    ask: Ask
    fits: Fits
    others: Occupants
    unlocking: Occupants

    @staticmethod
    def of(state: ClusterState, ask: Ask, movable: Movable) -> "_Search":
        roster = state.roster
        free = np.flatnonzero(roster.movable[: len(roster.replicas)])
        may = [movable(replica) for slot in free.tolist() if (replica := roster.replicas[slot]) is not None]
        others = Occupants(state, free[np.array(may, dtype=bool)])
        blocked = sibling_devices(state, ask, same_version=True)
        return _Search(state, ask, fits_of(state), others, others.only(others.unlock(ask.shape, blocked)))

    def plans(self) -> Iterator[Repair]:
        if not len(self.unlocking):
            return
        yield from self._one_move()
        yield from self._two_moves()

    def _one_move(self) -> Iterator[Repair]:
        leaving = self.unlocking.only(self.unlocking.elsewhere(self.fits))
        for at in leaving.cost.argsort(kind="stable")[:MOST_TRIES]:
            yield from worked_out(self.state, self.ask, int(leaving.node[at]), (Step(int(leaving.slots[at]), None),))

    def _two_moves(self) -> Iterator[Repair]:
        others, unlocking = self.others, self.unlocking
        opening = others.unlock_kinds(self.fits, unlocking.kinds)
        chained = opening & others.elsewhere(self.fits)
        costs = unlocking.costs()[:, None] + others.costs()
        pairs = _pairs(costs, others.of_kinds(chained), "chain")
        exchange = self._exchange()
        if exchange is not None:
            beside = exchange & self.fits.room[others.kinds[:, None], unlocking.node]
            opened = others.of_kinds(opening)
            pairs += _pairs(costs, opened & unlocking.of_kinds(beside).T, "swap")
            pairs.sort(key=lambda pair: pair.cost)
            staged = self._stageable()
            either = staged[unlocking.kinds][:, None] | staged[others.kinds]
            pairs += _pairs(costs, opened & unlocking.of_kinds(exchange).T & either, "staged")
        for pair in pairs:
            yield from self._tried(pair, chained if pair.how == "chain" else opening, exchange)

    def _exchange(self) -> Bools | None:
        """Which of `unlocking` could be replaced by which kind of `others`, and the ask besides; None: none could."""
        if self.ask.shape.demand.devices > 1:
            return None
        usable = np.ones_like(self.state.free_milli, dtype=bool)
        for at, devices in sibling_devices(self.state, self.ask, same_version=True).items():
            usable[at, list(devices)] = False
        return exchangeable(self.unlocking, self.fits, self.others.kinds, self.ask.shape, usable)

    def _tried(self, pair: _Pair, opening: Bools, exchange: Bools | None) -> Iterator[Repair]:
        """The plans of `pair`, of a few of its replicas."""
        unlocking, others = self.unlocking, self.others
        firsts = unlocking.of_kind(pair.first)
        seconds = others.of_kind(pair.second)
        if exchange is not None and pair.how != "chain":
            firsts = firsts[exchange[pair.second, firsts]]
            if pair.how == "swap":
                firsts = firsts[self.fits.room[others.kinds[pair.second], unlocking.node[firsts]]]
        for second in seconds[opening[pair.first, seconds]][:FEW]:
            via = int(others.node[second])
            for first in firsts[unlocking.node[firsts] != via][:FEW]:
                node = int(unlocking.node[first])
                for steps in self._steps(pair.how, int(unlocking.slots[first]), int(others.slots[second]), (node, via)):
                    yield from worked_out(self.state, self.ask, node, steps)

    def _steps(self, how: str, first: int, second: int, nodes: tuple[int, int]) -> Iterator[tuple[Step, ...]]:
        """The moves of the replicas in slots `first` (from node 0 of `nodes` to node 1) and `second`, in order."""
        node, via = nodes
        if how == "chain":
            yield Step(second, None, barred=nodes), Step(first, via)
        elif how == "swap":
            yield Step(second, node), Step(first, via)
        else:
            for stage in staging_places(self.state):
                yield Step(second, stage.node, stage=stage), Step(first, via), Step(second, node)
                yield Step(first, stage.node, stage=stage), Step(second, node), Step(first, via)

    def _stageable(self) -> Bools:
        """Which shapes fit a place set aside for staging. Shape (C,)."""
        fits, state = self.fits, self.state
        stageable = np.zeros(len(fits.cpu), dtype=bool)
        for stage in staging_places(state):
            at = stage.node
            enough = (fits.milli[:, at] <= stage.milli) & (fits.mib[:, at] <= stage.mib) & (fits.devices <= 1)
            enough &= (fits.cpu <= stage.cpu) & (fits.mem <= stage.mem) & fits.allowed[:, at]
            stageable |= enough
        return stageable


def _pairs(costs: Ints, possible: Bools, how: str) -> list[_Pair]:
    """The cheapest of the `possible` pairs of kinds."""
    first, second = np.nonzero(possible)
    cost = costs[first, second]
    order = cost.argsort(kind="stable")[:MOST_TRIES]
    return [_Pair(int(cost[at]), int(first[at]), int(second[at]), how) for at in order]
