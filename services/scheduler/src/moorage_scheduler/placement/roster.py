"""Who runs where, as arrays with a slot a replica: what the search for moves reads at once."""

import zlib

import numpy as np
import numpy.typing as npt

from moorage_scheduler.placement.asks import Shape

COLUMNS = ("node", "shape", "milli", "mib", "count", "first", "cpu", "mem", "mark")


class Roster:
    """A slot a replica with a place; a free slot has node -1.

    Attributes:
        table: int64 (columns, slots); see `COLUMNS`. `milli` and `mib` are per device, `count` the devices taken,
            `first` the first of them (-1: none), `mark` a number of the replica's name,
            which breaks ties alike whatever the history.
        movable: bool (slots,), False where pinned.
        shapes: each shape ever held; `shape` is an index into it.
    """

    def __init__(self) -> None:
        self.table = np.full((len(COLUMNS), 64), -1, dtype=np.int64)
        self.movable = np.zeros(64, dtype=bool)
        self.replicas: list[str | None] = []
        self.slots: dict[str, int] = {}
        self.shapes: list[Shape] = []
        self._numbers: dict[Shape, int] = {}
        self._ranks: list[npt.NDArray[np.int64]] = []
        self._free: list[int] = []

    def column(self, name: str) -> npt.NDArray[np.int64]:
        """One column of all slots in use or once used. Shape (slots,)."""
        column: npt.NDArray[np.int64] = self.table[COLUMNS.index(name), : len(self.replicas)]
        return column

    def number(self, shape: Shape) -> int:
        """The index of `shape` in `shapes`."""
        known = self._numbers.get(shape)
        if known is None:
            known = self._numbers[shape] = len(self.shapes)
            self.shapes.append(shape)
            self._ranks.clear()
        return known

    def ranks(self) -> npt.NDArray[np.int64]:
        """The place of each of `shapes` in an order that does not depend on when it was first held."""
        if not self._ranks:
            ordered = sorted(range(len(self.shapes)), key=lambda number: repr(self.shapes[number]))
            self._ranks.append(np.argsort(np.array(ordered, dtype=np.int64)))
        return self._ranks[0]

    def add(
        self, replica: str, node: int, shape: Shape, taken: tuple[int, int], devices: tuple[int, ...], *, movable: bool
    ) -> None:
        """Give `replica` a slot. `taken`: milli and MiB of each device."""
        if self._free:
            slot = self._free.pop()
            self.replicas[slot] = replica
        else:
            slot = len(self.replicas)
            self.replicas.append(replica)
            if slot == self.table.shape[1]:
                self.table = np.concatenate([self.table, np.full_like(self.table, -1)], axis=1)
                self.movable = np.concatenate([self.movable, np.zeros_like(self.movable)])
        first = devices[0] if devices else -1
        number, mark = self.number(shape), zlib.crc32(replica.encode())
        self.table[:, slot] = (node, number, *taken, len(devices), first, shape.cpu_milli, shape.mem_mib, mark)
        self.movable[slot] = movable
        self.slots[replica] = slot

    def remove(self, replica: str) -> None:
        slot = self.slots.pop(replica)
        self.replicas[slot] = None
        self.table[0, slot] = -1
        self.movable[slot] = False
        self._free.append(slot)
