"""The decision where one replica goes: filter, score, pick; ties go to the first node in the fixed order."""

from collections import Counter
from dataclasses import dataclass

from moorage_scheduler.placement.filters import refusal
from moorage_scheduler.placement.scores import best_devices, best_fit
from moorage_scheduler.placement.state import Ask, ClusterState


@dataclass(frozen=True)
class Place:
    """Start the replica on `node`, on these devices (bundle numbers; empty without a GPU)."""

    node: str
    devices: tuple[int, ...]


@dataclass(frozen=True)
class Queue:
    """Nothing fits now. `reason` says for people what stands against each node."""

    reason: str


Decision = Place | Queue


def place(state: ClusterState, ask: Ask) -> Decision:
    """Where `ask` goes in `state`: the best fit, never refusing what fits."""
    refusals = {node.name: refusal(node, ask) for node in state.nodes}
    candidates = [(node, best_devices(node, ask)) for node in state.nodes if refusals[node.name] is None]
    if not candidates:
        return Queue(_why_nowhere(refusals))
    node, devices = min(candidates, key=lambda candidate: best_fit(candidate[0], candidate[1], ask))
    return Place(node.name, tuple(sorted(device.index for device in devices)))


def _why_nowhere(refusals: dict[str, str | None]) -> str:
    if not refusals:
        return "the cluster has no node yet"
    counted = Counter(reason for reason in refusals.values() if reason is not None)
    return "; ".join(f"on {count} of {len(refusals)} node(s): {reason}" for reason, count in counted.most_common(3))
