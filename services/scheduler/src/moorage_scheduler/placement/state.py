"""The planner's own account of a cluster: devices, CPU and memory, whole and taken, as arrays.

Ray holds GPU fractions only; the rest of a node is counted here and rebuilt from what runs.
"""

import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from moorage_scheduler.placement.asks import DEVICE_MILLI, Ask, Demand, Held, NodeSize, Shape
from moorage_scheduler.placement.fragmentation import Asked, Typical, Usable
from moorage_scheduler.placement.roster import Roster

__all__ = ["DEVICE_MILLI", "Ask", "ClusterState", "Device", "Held", "Node", "NodeSize", "Shape"]

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
UNKNOWN_MIB = 1 << 40
"""Free memory of a device whose memory is not known: never short."""
NEVER = 1 << 30
"""Milli that no device has."""


@dataclass(frozen=True)
class Device:
    index: int
    free_milli: int
    free_mib: int
    deployments: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True)
class Node:
    """A node with what is free of it. Free amounts are negative where more runs than fits (a node that shrank)."""

    size: NodeSize
    devices: tuple[Device, ...]
    free_cpu_milli: int
    free_mem_mib: int
    closed: bool = False

    @property
    def name(self) -> str:
        return self.size.name


@dataclass(frozen=True)
class Need:
    """A demand against each node: milli and MiB a device (NEVER where model or labels do not match). Shapes (N,)."""

    milli: Ints
    mib: Ints
    allowed: Bools
    devices: int


@dataclass
class Scored:
    """Scores of one shape on every node (-1: does not fit), up to date with changes until `seen`."""

    score: npt.NDArray[np.int16]
    seen: int


@dataclass
class Failures:
    """Shapes (and deployments, where they hold replicas already) for which no repair was found, and at how many repairs
    and departures that was."""

    turnover: int = 0
    searches: int = 0
    failed_at: dict[tuple[Shape, tuple[str, str]], int] = field(default_factory=dict)


class ClusterState:
    """Nodes in a fixed order (by name), which breaks ties, and who sits where. Changed only through its methods.

    `version` counts changes; a plan is valid only for the version it was made on.

    Attributes (N nodes, D most devices of a node; to be read, not written):
        free_milli, free_mib: (N, D); 0 for devices that a node does not have.
        free_cpu, free_mem: (N,) CPU milli and MiB.
        device_count: (N,) devices of each node.
        model: (N,) number of the GPU model in `models`.
        closed: (N,) nodes that take nothing.
        derived: what others keep for this layout of nodes, under a name of theirs.
        changed_at: (N,) the version that last changed a node.
    """

    def __init__(self) -> None:
        self.version = 0
        self.epoch = 0
        self.held: dict[str, Held] = {}
        self.siblings: dict[tuple[str, str], Mapping[str, Held]] = {}
        self.drafted = False
        self.closed_names: frozenset[str] = frozenset()
        self.asked = Asked()
        self.typical = Typical()
        self.failures = Failures()
        self._lay_out(())

    @staticmethod
    def of(sizes: Iterable[NodeSize], held: Mapping[str, Held]) -> "ClusterState":
        """The state of a cluster of `sizes` in which `held` (by replica) runs."""
        state = ClusterState()
        state._lay_out(sizes)
        for replica, one in held.items():
            state.add(replica, one)
        return state

    def add(self, replica: str, held: Held) -> None:
        """Charge a replica. On a node that is gone it is remembered, and charged when the node is back."""
        if replica in self.held:
            msg = f"replica {replica} has a place already"
            raise ValueError(msg)
        self.held[replica] = held
        self.siblings[held.ask.deployment] = {**self.siblings.get(held.ask.deployment, {}), replica: held}
        self._charge(replica, held)

    def remove(self, replica: str) -> None:
        """Give a replica's place back. Raises KeyError where it has none."""
        held = self._release(replica)
        self.failures.turnover += 1
        self._drop(replica, held)

    def move(self, replica: str, held: Held) -> None:
        """Give `replica` its place of `held` in exchange for the one it has."""
        self._drop(replica, self._release(replica))
        self.add(replica, held)

    def copied(self) -> "ClusterState":
        """A state of its own that decides alike, to plan on beside what changes this one."""
        copied = ClusterState.of(self.sizes, self.held)
        copied.close(self.closed_names)
        copied.learn(self.typical)
        return copied

    def draft(self) -> "ClusterState":
        """A copy to try moves on; cheap, and without a roster."""
        draft = copy.copy(self)
        for name in ("free_milli", "free_mib", "free_cpu", "free_mem", "changed_at"):
            setattr(draft, name, getattr(self, name).copy("K"))
        draft.held, draft.siblings = dict(self.held), dict(self.siblings)
        draft.drafted, draft.scored, draft.derived = True, {}, {}
        return draft

    def set_nodes(self, sizes: Iterable[NodeSize]) -> None:
        """The cluster is of these nodes now; who sits on one that is gone is remembered, not charged."""
        ordered = tuple(sorted(sizes, key=lambda size: size.name))
        if ordered != self.sizes:
            self._lay_out(ordered)
            for replica, held in self.held.items():
                self._charge(replica, held)

    def close(self, names: Iterable[str]) -> None:
        """Exactly these nodes take nothing from now on (drained or cordoned); the others are open."""
        self.closed_names = frozenset(names)
        closed = np.array([size.name in self.closed_names for size in self.sizes], dtype=bool)
        self.version += 1
        self.changed_at[closed != self.closed] = self.version
        self.closed[:] = closed
        self.failures.failed_at.clear()

    def observe(self, ask: Ask) -> None:
        """Count an ask among those that typical classes are learnt from."""
        if self.asked.observe(ask.shape):
            self.learn(Typical.of(self.asked.classes))

    def learn(self, typical: Typical) -> None:
        """Score by these typical classes from now on."""
        if typical != self.typical:
            self.typical = typical
            self.epoch += 1
            self.scored.clear()
            self._tables.clear()

    @property
    def usable(self) -> Usable:
        """Tables of the typical classes over this cluster's GPU models."""
        if not self._tables:
            self._tables.append(Usable(self.typical, self.models, self.free_milli.shape[1]))
        return self._tables[0]

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Every node with what is free of it, in order; made when asked for."""
        sharing: defaultdict[tuple[int, int], set[tuple[str, str]]] = defaultdict(set)
        for held in self.held.values():
            at = self.index.get(held.node, -1)
            for device in held.devices:
                sharing[at, device].add(held.ask.deployment)
        return tuple(self._node(at, size, sharing) for at, size in enumerate(self.sizes))

    def need(self, demand: Demand) -> Need:
        """What `demand` is on each node."""
        known = self._needs.get(demand)
        if known is None:
            known = self._needs[demand] = self._need(demand)
        return known

    def recorded(self) -> dict[str, Any]:
        """All that decisions depend on, as JSON; `of_recorded` gives a state that decides alike, bit for bit."""
        return {
            "nodes": [size.recorded() for size in self.sizes],
            "held": {replica: held.recorded() for replica, held in self.held.items()},
            "closed": sorted(self.closed_names),
            "asked": {"classes": list(self.asked.classes), "since": self.asked.since},
            "typical": list(self.typical.classes),
            "turnover": self.failures.turnover,
            "failed": [[astuple(shape), of, at] for (shape, of), at in self.failures.failed_at.items()],
        }

    @staticmethod
    def of_recorded(recorded: Mapping[str, Any]) -> "ClusterState":
        held = {replica: Held.of_recorded(one) for replica, one in recorded["held"].items()}
        state = ClusterState.of((NodeSize(**size) for size in recorded["nodes"]), held)
        state.close(recorded["closed"])
        state.asked = Asked((_tuples(one) for one in recorded["asked"]["classes"]), recorded["asked"]["since"])
        state.learn(Typical(tuple((_tuples(one), count) for one, count in recorded["typical"])))
        failed = {
            (Shape(Demand(*_tuples(demand)), cpu, mem), _tuples(of)): at
            for (demand, cpu, mem), of, at in recorded.get("failed", ())
        }
        state.failures = Failures(recorded.get("turnover", 0), failed_at=failed)
        return state

    def _lay_out(self, sizes: Iterable[NodeSize]) -> None:
        self.sizes = tuple(sorted(sizes, key=lambda size: size.name))
        self.version += 1
        self.epoch += 1
        self.index = {size.name: at for at, size in enumerate(self.sizes)}
        self.models = tuple(sorted({size.gpu_model for size in self.sizes}))
        self.model: Ints = np.array([self.models.index(size.gpu_model) for size in self.sizes], dtype=np.int64)
        self.device_count: Ints = np.array([size.devices for size in self.sizes], dtype=np.int64)
        exists = np.arange(max([1, *self.device_count.tolist()])) < self.device_count[:, None]
        self.free_milli: Ints = np.asfortranarray(np.where(exists, DEVICE_MILLI, 0))
        mib = np.array([size.device_mem_mib or UNKNOWN_MIB for size in self.sizes], dtype=np.int64)
        self.free_mib: Ints = np.asfortranarray(np.where(exists, mib[:, None], 0))
        self.memory_known = any(size.device_mem_mib and size.devices for size in self.sizes)
        self.free_cpu: Ints = np.array([size.cpu_milli for size in self.sizes], dtype=np.int64)
        self.free_mem: Ints = np.array([size.mem_mib for size in self.sizes], dtype=np.int64)
        self.closed: Bools = np.array([size.name in self.closed_names for size in self.sizes], dtype=bool)
        self.changed_at: Ints = np.full(len(self.sizes), self.version, dtype=np.int64)
        self.roster = Roster()
        self.scored: dict[tuple[Shape, str], Scored] = {}
        self.derived: dict[str, object] = {}
        self.failures.failed_at.clear()
        self._needs: dict[Demand, Need] = {}
        self._tables: list[Usable] = []

    def _node(self, at: int, size: NodeSize, sharing: Mapping[tuple[int, int], set[tuple[str, str]]]) -> Node:
        devices = tuple(
            Device(
                index,
                int(self.free_milli[at, index]),
                int(self.free_mib[at, index]) - (0 if size.device_mem_mib else UNKNOWN_MIB),
                frozenset(sharing.get((at, index), ())),
            )
            for index in range(size.devices)
        )
        return Node(size, devices, int(self.free_cpu[at]), int(self.free_mem[at]), bool(self.closed[at]))

    def _need(self, demand: Demand) -> Need:
        allowed = np.array(
            [
                demand.takes_model(size.gpu_model) and all(size.labels.get(k) == v for k, v in demand.labels)
                for size in self.sizes
            ],
            dtype=bool,
        )
        if not demand.milli:
            nothing = np.zeros(len(self.sizes), dtype=np.int64)
            return Need(nothing, nothing, allowed, 0)
        each = np.array([demand.on(size) for size in self.sizes], dtype=np.int64).reshape(-1, 2)
        return Need(np.where(allowed, each[:, 0], NEVER), each[:, 1].copy(), allowed, demand.devices)

    def _charge(self, replica: str, held: Held) -> None:
        self.version += 1
        at = self.index.get(held.node)
        if at is None:
            return
        size = self.sizes[at]
        shape = held.shape_on(size)
        taken = shape.demand.on(size) if held.devices else (0, 0)
        devices = tuple(device for device in held.devices if device < size.devices)
        if not self.drafted:
            self.roster.add(replica, at, shape, taken, devices, movable=not held.pinned)
        self._take(at, shape, taken, devices, 1)

    def _drop(self, replica: str, held: Held) -> None:
        self.version += 1
        at = self.index.get(held.node)
        if at is None:
            return
        size = self.sizes[at]
        shape = held.shape_on(size)
        taken = shape.demand.on(size) if held.devices else (0, 0)
        if not self.drafted:
            self.roster.remove(replica)
        self._take(at, shape, taken, tuple(d for d in held.devices if d < size.devices), -1)

    def _release(self, replica: str) -> Held:
        held = self.held.pop(replica)
        left = {name: one for name, one in self.siblings.pop(held.ask.deployment).items() if name != replica}
        if left:
            self.siblings[held.ask.deployment] = left
        return held

    def _take(self, at: int, shape: Shape, taken: tuple[int, int], devices: tuple[int, ...], sign: int) -> None:
        for device in devices:
            self.free_milli[at, device] -= sign * taken[0]
            self.free_mib[at, device] -= sign * taken[1]
        self.free_cpu[at] -= sign * shape.cpu_milli
        self.free_mem[at] -= sign * shape.mem_mib
        self.changed_at[at] = self.version


def _tuples(value: Any) -> Any:
    """Lists of JSON as the tuples they were."""
    return tuple(_tuples(one) for one in value) if isinstance(value, list | tuple) else value
