"""The cells of the matrix, and the ledger that holds what became of each."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Literal

from conformance.tensors import COLUMNS, DATATYPES, Tensor, item_bytes, sample

Form = Literal["JSON", "binary", "mixed"]
Packing = Literal["plain", "gzip", "deflate"]
State = Literal["green", "refused", "red"]

FORMS: tuple[Form, ...] = ("JSON", "binary", "mixed")
PACKINGS: tuple[Packing, ...] = ("plain", "gzip", "deflate")
NO_JSON = frozenset({"BF16"})
"""Datatypes whose JSON form is refused with 400. A server may refuse FP16 too; Moorage does not."""
ROWS = 6
"""Enough for every sample value."""
PACKED_BYTES = 16_400
"""Of an answer's raw bytes, and JSON is longer: enough that a server finds it worth compressing."""


@dataclass(frozen=True)
class Cell:
    """One request to an identity of two tensors. `mixed` is `x` as raw bytes and `y` as JSON."""

    datatype: str
    sent: Form
    answered: Form
    versioned: bool
    packing: Packing

    @property
    def name(self) -> str:
        path = "versioned" if self.versioned else "unversioned"
        return f"{self.datatype}: {self.sent} in, {self.answered} out, {path}, {self.packing}"

    @property
    def may_be_refused(self) -> bool:
        return self.datatype in NO_JSON and (self.sent != "binary" or self.answered != "binary")

    @property
    def sent_raw(self) -> dict[str, bool]:
        return {"x": self.sent != "JSON", "y": self.sent == "binary"}

    @property
    def answered_raw(self) -> dict[str, bool]:
        return {"x_out": self.answered != "JSON", "y_out": self.answered == "binary"}

    def inputs(self, *, all_finite: bool = False) -> dict[str, Tensor]:
        """`x` and `y`, with NaN and infinities where both ways are raw bytes, unless `all_finite`."""
        return {
            name: sample(
                self.datatype,
                beyond_json=not all_finite and self.sent_raw[name] and self.answered_raw[f"{name}_out"],
                turned=name == "y",
                rows=ROWS if self.packing == "plain" else PACKED_BYTES // (2 * COLUMNS * item_bytes(self.datatype)),
            )
            for name in ("x", "y")
        }


def grid(datatype: str) -> Iterator[Cell]:
    """Every cell of a datatype."""
    for sent, answered, versioned, packing in product(FORMS, FORMS, (False, True), PACKINGS):
        yield Cell(datatype, sent, answered, versioned, packing)


def whole_grid() -> Iterator[Cell]:
    for datatype in DATATYPES:
        yield from grid(datatype)


@dataclass(frozen=True)
class Outcome:
    """What became of a cell; `text` says why it is not green."""

    client: str
    capability: str
    cell: str
    state: State
    text: str = ""
    datatype: str = ""
    sent: str = ""
    answered: str = ""


@dataclass
class Ledger:
    """Everything that was found out, in order, with the clients' versions and remarks for the page."""

    outcomes: list[Outcome] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    remarks: dict[str, str] = field(default_factory=dict)

    def note(self, client: str, capability: str, cell: str, text: str | None) -> Outcome:
        """A cell that is green when `text` is empty or None."""
        outcome = Outcome(client, capability, cell, "red" if text else "green", text or "")
        self.outcomes.append(outcome)
        return outcome

    def note_cell(self, client: str, cell: Cell, state: State, text: str) -> Outcome:
        """A cell of the grid."""
        outcome = Outcome(client, "infer", cell.name, state, text, cell.datatype, cell.sent, cell.answered)
        self.outcomes.append(outcome)
        return outcome


def assert_no_red(outcomes: list[Outcome]) -> None:
    """Fail with the name of every red cell."""
    red = [o for o in outcomes if o.state == "red"]
    lines = "\n".join(f"  {o.client}, {o.capability}, {o.cell}: {o.text:.300}" for o in red[:40])
    more = f"\n  and {len(red) - 40} more" if len(red) > 40 else ""
    assert not red, f"{len(red)} of {len(outcomes)} cells are red:\n{lines}{more}"
    assert outcomes, "no cell was tried"
