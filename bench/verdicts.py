"""Who is best, and whether Moorage meets what it promises: pure functions of what was measured."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import load

OURS = "moorage"

FASTER = {32: 3.0, 128: 4.0}
"""On `digits`: how many times the best peer's requests/s, by connections."""
TAIL_SHARE = 0.25
"""On `digits`, where `FASTER` counts: p99 as a share of that peer's."""


@dataclass(frozen=True)
class Measured:
    """One load on one side."""

    side: str
    case: str
    wire: str
    result: load.Result
    cpu_us: float
    """Processor time of the side's processes a request, the load's own left out."""

    @property
    def is_peer(self) -> bool:
        return not self.side.startswith(OURS)


@dataclass(frozen=True)
class Verdict:
    """Moorage against the best peer at one case and number of connections."""

    case: str
    connections: int
    best_peer: str
    throughput_ratio: float
    p99_ratio: float
    p50_ratio: float
    target: str
    met: bool


def best_runs(measured: Iterable[Measured]) -> list[Measured]:
    """Of each side's runs of a case at a number of connections, the one with most requests/s, clean ones first."""
    best: dict[tuple[str, str, int], Measured] = {}
    for one in measured:
        key = (one.case, one.side, one.result.connections)
        if key not in best or _rank(one) > _rank(best[key]):
            best[key] = one
    return list(best.values())


def _rank(one: Measured) -> tuple[bool, float]:
    return (not one.result.mismatches and not one.result.errors, one.result.per_second)


def judge(measured: Sequence[Measured]) -> list[Verdict]:
    """A verdict for each case and number of connections that Moorage and some peer were measured at.

    A peer whose answers were wrong is no peer; one with refused requests counts with those it answered.
    """
    out = []
    for ours in (one for one in measured if one.side == OURS):
        same = [
            m for m in measured if m.is_peer and m.case == ours.case and m.result.connections == ours.result.connections
        ]
        peers = [m for m in same if m.result.requests and not m.result.mismatches]
        if peers:
            out.append(_verdict(ours, peers))
    return out


def _verdict(ours: Measured, peers: Sequence[Measured]) -> Verdict:
    connections = ours.result.connections
    best = max(peers, key=lambda m: m.result.per_second)
    quickest = min(peers, key=lambda m: m.result.p50_ms)
    faster = _ratio(ours.result.per_second, best.result.per_second)
    tail = _ratio(ours.result.p99_ms, best.result.p99_ms)
    p50 = _ratio(ours.result.p50_ms, quickest.result.p50_ms)
    if ours.case != "digits":
        target, met = "not below the best peer", faster >= 1.0
    elif connections in FASTER:
        wanted = FASTER[connections]
        target, met = f">= {wanted:g}x, p99 <= {TAIL_SHARE:g}x", faster >= wanted and tail <= TAIL_SHARE
    else:
        target, met = f"p50 below every peer ({quickest.side})", p50 < 1.0
    clean = not ours.result.errors and not ours.result.mismatches
    return Verdict(ours.case, connections, best.side, faster, tail, p50, target, met and clean)


def _ratio(ours: float, theirs: float) -> float:
    return round(ours / theirs, 3) if theirs else 0.0
