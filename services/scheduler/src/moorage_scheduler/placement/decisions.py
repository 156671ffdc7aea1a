"""What placement decides: frozen values, each of which can be explained and replayed."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """Start the replica on `node`, on these devices (bundle numbers; empty without a GPU), with `gpu_milli` of each."""

    node: str
    devices: tuple[int, ...]
    gpu_milli: int = 0


@dataclass(frozen=True)
class Move:
    """Start `replica` anew at `target`, then stop it at `source`: both places are held meanwhile."""

    replica: str
    source: Place
    target: Place


@dataclass(frozen=True)
class Repair:
    """Nothing fits, but after `moves` the replica has `place`.

    The moves are in executable order: each fits, its old place still held, once those before it are done.
    """

    moves: tuple[Move, ...]
    place: Place


@dataclass(frozen=True)
class Reclaim:
    """These replicas of borrowers go, so that the replica gets the `place` that is guaranteed to its tenant."""

    victims: tuple[str, ...]
    place: Place


@dataclass(frozen=True)
class Preempt:
    """These replicas of less weight (scavengers, then lower priorities of the same tenant) go."""

    victims: tuple[str, ...]
    place: Place


@dataclass(frozen=True)
class Removed:
    """One filter: how many nodes it was the first to remove, and why the one that came closest was."""

    filter: str
    nodes: int
    reason: str


@dataclass(frozen=True)
class Queue:
    """Nothing fits now. `reason` says for people what stands against each node, `would_fit` what would help."""

    reason: str
    filters: tuple[Removed, ...] = ()
    would_fit: str = ""


Decision = Place | Repair | Reclaim | Preempt | Queue
