"""The last decisions with what each was made on, so that they can be explained and made again.

An entry keeps only what changed since the one before; the first rests on a base, into which entries are folded that
are too old to be kept.
"""

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from moorage_scheduler.placement.decisions import Decision, Place
from moorage_scheduler.placement.filters import removed
from moorage_scheduler.placement.fragmentation import Typical
from moorage_scheduler.placement.state import Ask, ClusterState, Held, NodeSize

FORMAT = 1
KEPT = 128
"""Decisions that are kept."""
WHYS_KEPT = 10_000
_OF_OTHERS = frozenset({"movable", "ready", "spare", "least"})
"""What only decisions that disturb others rest on; it names every replica, so it is kept where it is needed."""
_NONE = object()


@dataclass(frozen=True)
class Changes:
    """What became of a state between two decisions; None for what stayed."""

    added: Mapping[str, Held]
    removed: tuple[str, ...]
    nodes: tuple[NodeSize, ...] | None
    closed: tuple[str, ...] | None
    typical: Typical | None

    def none(self) -> bool:
        return self == NONE

    def recorded(self) -> dict[str, Any]:
        return {
            "added": {replica: held.recorded() for replica, held in self.added.items()},
            "removed": list(self.removed),
            "nodes": None if self.nodes is None else [size.recorded() for size in self.nodes],
            "closed": None if self.closed is None else list(self.closed),
            "typical": None if self.typical is None else list(self.typical.classes),
        }


NONE = Changes({}, (), None, None, None)


@dataclass(frozen=True)
class Entry:
    """One decision. `context` is what else it was made on, as JSON: those keys that were otherwise before."""

    at: float
    changes: Changes
    ask: Ask
    context: dict[str, Any]
    decision: Decision

    def recorded(self) -> dict[str, Any]:
        return {
            "at": self.at,
            "changes": self.changes.recorded(),
            "ask": self.ask.recorded(),
            "context": self.context,
            "decision": decision_json(self.decision),
        }


def decision_json(decision: Decision) -> dict[str, Any]:
    """A decision as JSON, its kind in lower case under `decision`."""
    return {"decision": type(decision).__name__.lower(), **dataclasses.asdict(decision)}


@dataclass
class Seen:
    """A state as it was at some decision."""

    nodes: tuple[NodeSize, ...] = ()
    closed: tuple[str, ...] = ()
    held: dict[str, Held] = field(default_factory=dict)
    typical: Typical = field(default_factory=Typical)

    @classmethod
    def of(cls, state: ClusterState) -> "Seen":
        return cls(state.sizes, tuple(sorted(state.closed_names)), dict(state.held), state.typical)

    def changes_to(self, later: "Seen") -> Changes:
        return Changes(
            added={r: held for r, held in later.held.items() if not _same(held, self.held.get(r))},
            removed=tuple(r for r, held in self.held.items() if not _same(held, later.held.get(r))),
            nodes=later.nodes if later.nodes != self.nodes else None,
            closed=later.closed if later.closed != self.closed else None,
            typical=later.typical if later.typical != self.typical else None,
        )

    def apply(self, changes: Changes) -> None:
        for replica in changes.removed:
            del self.held[replica]
        self.held.update(changes.added)
        self.nodes = self.nodes if changes.nodes is None else changes.nodes
        self.closed = self.closed if changes.closed is None else changes.closed
        self.typical = self.typical if changes.typical is None else changes.typical

    def recorded(self) -> dict[str, Any]:
        """As `ClusterState.recorded`."""
        return {
            "nodes": [size.recorded() for size in self.nodes],
            "held": {replica: held.recorded() for replica, held in self.held.items()},
            "closed": list(self.closed),
            "asked": {"classes": [], "since": 0},
            "typical": list(self.typical.classes),
        }


def _same(one: Held, other: Held | None) -> bool:
    """Asked of every replica at every decision: identity first, which is what it nearly always is."""
    return one is other or one == other


@dataclass
class Journal:
    """Decisions of one scheduler on its one state, youngest last."""

    most: int = KEPT
    entries: deque[Entry] = field(default_factory=deque)
    _base: Seen = field(default_factory=Seen)
    _last: Seen = field(default_factory=Seen)
    _mark: tuple[int, Typical] | None = None
    _base_context: dict[str, Any] = field(default_factory=dict)
    _last_context: dict[str, Any] = field(default_factory=dict)
    _same: set[tuple[Hashable, Decision]] = field(default_factory=set)
    _whys: dict[str, str] = field(default_factory=dict)

    def decided(
        self, state: ClusterState, ask: Ask, decision: Decision, *, at: float | None = None, **context: Any
    ) -> None:
        """Note a decision, before it changes `state`; the same one on the same state, each second, is noted once.

        Args:
            context: what else it was made on, as JSON. For a `Place`, what only others are decided by is left out.
        """
        mark = (state.version, state.typical)
        if mark == self._mark:
            now, changes = self._last, NONE
        else:
            now = Seen.of(state)
            changes = self._last.changes_to(now)
        self._mark = mark
        if not changes.none():
            self._same.clear()
        known = ((ask.tenant, ask.model, ask.version, ask.shape), decision)
        if known in self._same:
            return
        self._same.add(known)
        self._last = now
        news = {
            key: value
            for key, value in context.items()
            if not (isinstance(decision, Place) and key in _OF_OTHERS) and self._last_context.get(key, _NONE) != value
        }
        self._last_context.update(news)
        self.entries.append(Entry(time.time() if at is None else at, changes, ask, news, decision))
        while len(self.entries) > self.most:
            oldest = self.entries.popleft()
            self._base.apply(oldest.changes)
            self._base_context.update(oldest.context)

    def keep(self, replica: str, reason: str) -> None:
        """Keep the reason why `replica` went where it did."""
        while len(self._whys) >= WHYS_KEPT:
            self._whys.pop(next(iter(self._whys)))
        self._whys[replica] = reason

    def why(self, replica: str) -> str:
        """Why it is where it is; empty where an earlier scheduler placed it."""
        return self._whys.get(replica, "")

    def recording(self, state: ClusterState) -> Callable[[], dict[str, Any]]:
        """For `moorage scheduler replay`: the base, the decisions on it, and `state` as it is now.

        What is recorded is copied; the function that makes JSON of it may run beside what changes it.
        """
        base = dataclasses.replace(self._base, held=dict(self._base.held))
        context, entries, now = dict(self._base_context), [*self.entries], Seen.of(state)
        return lambda: {
            "format": FORMAT,
            "base": base.recorded(),
            "context": context,
            "decisions": [entry.recorded() for entry in entries],
            "state": now.recorded(),
        }

    def recorded(self, state: ClusterState) -> dict[str, Any]:
        """As `recording`, made at once."""
        return self.recording(state)()


def why(state: ClusterState, ask: Ask, place: Place) -> str:
    """Why `place` of all that `ask` could have, before it is taken."""
    gone = removed(state, ask)
    fit = len(state.sizes) - sum(one.nodes for one in gone)
    asked = ask.device_milli(next(size for size in state.sizes if size.name == place.node))
    trimmed = f"; it got {place.gpu_milli} of {asked} milli, as much as is free" if 0 < place.gpu_milli < asked else ""
    if fit <= 1:
        which = "node there is" if len(state.sizes) == 1 else f"one of {len(state.sizes)} nodes that could take it"
        return f"the only {which}{trimmed}"
    better = "leaves most GPU usable for what is usually asked" if place.devices else "fits best"
    return f"of {len(state.sizes)} nodes {fit} could take it; this one {better}{trimmed}"
