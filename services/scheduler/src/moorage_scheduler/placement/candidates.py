"""Who could leave to make room for whom: masks over shapes, nodes and replicas at once, for the search for moves."""

from collections.abc import Mapping, Set

import numpy as np
import numpy.typing as npt

from moorage_scheduler.placement.asks import Shape
from moorage_scheduler.placement.scores import fitting
from moorage_scheduler.placement.state import Bools, ClusterState, Ints

EVERYWHERE = slice(None)
Small = npt.NDArray[np.int32]


class Fits:
    """Which node has room for which shape ever held: matrices kept up to date with the nodes that changed.

    Attributes (C shapes by the roster's numbers, N nodes):
        room: bool (C, N), whether the shape fits the node now.
        count: int16 (C, N), how many of the node's devices fit it, whatever its CPU and memory.
        milli, mib: int32 (C, N), what it needs of each device; NEVER where model or labels do not match.
        plain: int32 (C,), the milli of shapes that need the same wherever they are allowed; -1: see `milli`.
        devices, cpu, mem: int32 (C,).
    """

    def __init__(self, state: ClusterState) -> None:
        nodes = len(state.sizes)
        self._state = state
        self._seen = state.version
        self.room: Bools = np.zeros((0, nodes), dtype=bool)
        self.count: npt.NDArray[np.int16] = np.zeros((0, nodes), dtype=np.int16)
        self.milli: Small = np.zeros((0, nodes), dtype=np.int32)
        self.mib: Small = np.zeros((0, nodes), dtype=np.int32)
        self.allowed: Bools = np.zeros((0, nodes), dtype=bool)
        self.plain: Small = np.zeros(0, dtype=np.int32)
        self.devices: Small = np.zeros(0, dtype=np.int32)
        self.cpu: Small = np.zeros(0, dtype=np.int32)
        self.mem: Small = np.zeros(0, dtype=np.int32)

    def refresh(self) -> None:
        """Take in what changed."""
        state = self._state
        known = len(self.room)
        changed = np.flatnonzero(state.changed_at > self._seen)
        self._seen = state.version
        if changed.size and known:
            self.room[:, changed], self.count[:, changed] = self._fit(slice(known), changed)
        if len(state.roster.shapes) > known:
            self._grow(state.roster.shapes[known:])
            room, count = self._fit(slice(known, None), EVERYWHERE)
            self.room, self.count = np.concatenate([self.room, room]), np.concatenate([self.count, count])

    def _grow(self, shapes: list[Shape]) -> None:
        needs = [self._state.need(shape.demand) for shape in shapes]
        self.milli = np.concatenate([self.milli, np.array([need.milli for need in needs], dtype=np.int32)])
        self.mib = np.concatenate([self.mib, np.array([need.mib for need in needs], dtype=np.int32)])
        self.allowed = np.concatenate([self.allowed, np.array([need.allowed for need in needs])])
        plain = [-1 if shape.demand.profiles else shape.demand.milli for shape in shapes]
        self.plain = np.append(self.plain, np.array(plain, dtype=np.int32))
        self.devices = np.append(self.devices, np.array([need.devices for need in needs], dtype=np.int32))
        self.cpu = np.append(self.cpu, np.array([shape.cpu_milli for shape in shapes], dtype=np.int32))
        self.mem = np.append(self.mem, np.array([shape.mem_mib for shape in shapes], dtype=np.int32))

    def milli_on(self, kinds: Ints, node: Ints) -> Small:
        """The milli that `kinds` need on the nodes `node` where allowed. Shape (kinds, node) or (kinds, 1)."""
        plain = self.plain[kinds, None]
        return plain if (plain >= 0).all() else self.milli[kinds[:, None], node]

    def allowed_on(self, kinds: Ints, node: Ints) -> Bools:
        """Which of the nodes `node` are open to `kinds`. Shape (kinds, node)."""
        allowed: Bools = (self.allowed[kinds] & ~self._state.closed).take(node, axis=1)
        return allowed

    def _fit(self, numbers: slice, nodes: Ints | slice) -> tuple[Bools, npt.NDArray[np.int16]]:
        """`room` and `count` of those shapes on those nodes."""
        state = self._state
        each = state.free_milli[nodes] >= self.milli[numbers][:, nodes, None]
        if state.memory_known:
            each &= state.free_mib[nodes] >= self.mib[numbers][:, nodes, None]
        count = each.sum(axis=2, dtype=np.int16)
        room: Bools = count >= self.devices[numbers, None]
        room &= self.allowed[numbers][:, nodes] & ~state.closed[nodes]
        room &= state.free_cpu[nodes] >= self.cpu[numbers, None]
        room &= state.free_mem[nodes] >= self.mem[numbers, None]
        return room, count


def fits_of(state: ClusterState) -> Fits:
    """The matrices that `state` keeps, up to date."""
    kept = state.derived.get("fits")
    if not isinstance(kept, Fits):
        kept = state.derived["fits"] = Fits(state)
    kept.refresh()
    return kept


class Occupants:
    """The replicas in some slots of the roster, as arrays of one length (M,), those of one shape side by side.

    Attributes:
        kinds: the shape numbers that occur; `starts`: where each begins.
        milli_now, mib_now: what the first device of each has free; -1 without a device.
        milli_left, mib_left: what it would have free if the replica left it.
        milli_beside: the most that another device of its node has free.
        cpu_left, mem_left: what its node would have free.
        cost: GPU milli it holds, then CPU milli, in one number.
    """

    def __init__(self, state: ClusterState, slots: Ints) -> None:
        roster = state.roster
        shape = roster.column("shape")[slots]
        place = roster.column("node")[slots] * 64 + roster.column("first")[slots] + 1
        order = np.lexsort((roster.column("mark")[slots], place, roster.ranks()[shape] if len(shape) else shape))
        self.state = state
        self.slots: Ints = slots[order]
        self.shape: Ints = shape[order]
        self.node: Ints = roster.column("node")[self.slots]
        self.count: Ints = roster.column("count")[self.slots]
        first = roster.column("first")[self.slots]
        milli, mib = roster.column("milli")[self.slots], roster.column("mib")[self.slots]
        cpu = roster.column("cpu")[self.slots]
        self.first: Ints = first.clip(0)
        self.milli_now = np.where(first < 0, -1, state.free_milli[self.node, self.first]).astype(np.int32)
        self.milli_left = self.milli_now + milli.astype(np.int32)
        rest = state.free_milli[self.node]
        rest[np.arange(len(rest)), self.first] *= first < 0
        self.milli_beside = rest.max(axis=1, initial=0).astype(np.int32)
        self.mib_now: Ints = np.where(first < 0, -1, state.free_mib[self.node, self.first])
        self.mib_left: Ints = self.mib_now + mib
        self.cpu_left = (state.free_cpu[self.node] + cpu).astype(np.int32)
        self.mem_left = (state.free_mem[self.node] + roster.column("mem")[self.slots]).astype(np.int32)
        self.cost: Ints = ((milli * self.count) << 32) + cpu
        self.starts: Ints = np.flatnonzero(np.diff(self.shape, prepend=-1))
        self.kinds: Ints = self.shape[self.starts]

    def __len__(self) -> int:
        return len(self.slots)

    def only(self, mask: Bools) -> "Occupants":
        return Occupants(self.state, self.slots[mask])

    def unlock(self, shape: Shape, blocked: Mapping[int, Set[int]]) -> Bools:
        """For which of them `shape` would fit on their node if they left it, devices `blocked` (by node) aside."""
        state, node = self.state, self.node
        need = state.need(shape.demand)
        opened: Bools = (self.cpu_left >= shape.cpu_milli) & (self.mem_left >= shape.mem_mib)
        opened &= (need.allowed & ~state.closed)[node]
        if not need.devices:
            return opened
        fits = fitting(state, need, EVERYWHERE)
        usable = np.ones_like(fits)
        for at, devices in blocked.items():
            usable[at, list(devices)] = False
        fits &= usable
        gained = (self.milli_left >= need.milli[node]) & (self.mib_left >= need.mib[node])
        gained &= usable[node, self.first] & ~fits[node, self.first]
        opened &= fits.sum(axis=1)[node] + gained * self.count >= need.devices
        return opened

    def unlock_kinds(self, fits: Fits, kinds: Ints) -> Bools:
        """`unlock` for each of the shapes numbered `kinds`. Shape (kinds, M)."""
        opened = self.takes_freed(fits, kinds)
        opened |= self.takes_beside(fits, kinds)
        opened &= fits.cpu[kinds, None] <= self.cpu_left
        opened &= fits.mem[kinds, None] <= self.mem_left
        opened &= fits.allowed_on(kinds, self.node)
        for at in np.flatnonzero(fits.devices[kinds] > 1):
            opened[at] = self.unlock(self.state.roster.shapes[kinds[at]], {})
        return opened

    def takes_freed(self, fits: Fits, kinds: Ints) -> Bools:
        """Whether one of `kinds` (of one device) fits the first device of each once it has left. Shape (kinds, M)."""
        taken: Bools = fits.milli_on(kinds, self.node) <= self.milli_left
        if self.state.memory_known:
            taken &= fits.mib[kinds[:, None], self.node] <= self.mib_left
        return taken

    def takes_beside(self, fits: Fits, kinds: Ints) -> Bools:
        """Whether one of `kinds` (of one device or none) fits another device of its node now. Shape (kinds, M)."""
        beside: Bools
        if not self.state.memory_known:
            beside = fits.milli_on(kinds, self.node) <= self.milli_beside
            return beside
        first = fits.milli_on(kinds, self.node) <= self.milli_now
        first &= fits.mib[kinds[:, None], self.node] <= self.mib_now
        beside = fits.count[kinds[:, None], self.node] > first
        beside |= fits.devices[kinds, None] == 0
        return beside

    def of_kind(self, at: int) -> Ints:
        """Where the replicas of the kind number `at` of `kinds` are."""
        end = self.starts[at + 1] if at + 1 < len(self.starts) else len(self)
        return np.arange(self.starts[at], end)

    def of_kinds(self, mask: Bools) -> Bools:
        """Whether any replica of each kind is in `mask` (..., M). Shape (..., kinds)."""
        any_of: Bools = np.logical_or.reduceat(mask, self.starts, axis=-1)
        return any_of

    def costs(self) -> Ints:
        """The cost of the first replica of each kind."""
        costs: Ints = self.cost[self.starts]
        return costs

    def elsewhere(self, fits: Fits) -> Bools:
        """Which of them have room on another node than theirs. Shape (M,)."""
        nodes = fits.room.sum(axis=1)[self.shape]
        more: Bools = nodes > fits.room[self.shape, self.node]
        return more


def exchangeable(leaving: Occupants, fits: Fits, kinds: Ints, shape: Shape, usable: Bools) -> Bools:
    """For which of `leaving` its node, once it has left, has room for `shape` and one of each of `kinds` besides.

    Only where `leaving`, `shape` and the kinds take one device or none. Where both have to share a node's devices with
    each other this says yes a little too often, never too seldom.

    Args:
        usable: (N, D), the devices that `shape` may take.

    Returns: (kinds, leaving).
    """
    state, node = leaving.state, leaving.node
    need = state.need(shape.demand)
    both = fits.cpu[kinds, None] + shape.cpu_milli <= leaving.cpu_left
    both &= fits.mem[kinds, None] + shape.mem_mib <= leaving.mem_left
    both &= (leaving.count <= 1) & (fits.devices[kinds, None] <= 1)
    both &= fits.allowed_on(kinds, node)
    onto_freed, onto_beside = leaving.takes_freed(fits, kinds), leaving.takes_beside(fits, kinds)
    if not need.devices:
        return both & (onto_beside | onto_freed)
    freed = usable[node, leaving.first] & (leaving.milli_now >= 0)
    asked, asked_mib = need.milli[node].astype(np.int32), need.mib[node]
    takes_freed = freed & (leaving.milli_left >= asked) & (leaving.mib_left >= asked_mib)
    takes_now = freed & (leaving.milli_now >= asked) & (leaving.mib_now >= asked_mib)
    takes_other = (fitting(state, need, EVERYWHERE) & usable).sum(axis=1)[node] > takes_now
    shared = fits.milli_on(kinds, node) <= np.where(takes_freed, leaving.milli_left - asked, -1)
    if state.memory_known:
        shared &= fits.mib[kinds[:, None], node] <= leaving.mib_left - asked_mib
    gpu: Bools = (takes_other & (onto_freed | onto_beside)) | (takes_freed & onto_beside) | shared
    return both & gpu
