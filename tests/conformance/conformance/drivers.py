"""Clients: what each can express, the job its driver is given, and what its results are held to."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from e2e_platform import Platform

from conformance.cells import Cell, Form, Ledger, Outcome, Packing, whole_grid
from conformance.environments import CLIENTS
from conformance.models import DIGITS, identity_of
from conformance.tensors import EXACT_IN_DOUBLES, NUMBERS, Tensor, first_difference, packed, tensor, unpacked

TIMEOUT_S = 200


@dataclass(frozen=True)
class Client:
    """An independent client.

    Attributes:
        driver: its script in `clients/`, without the ending.
        environment: its pinned versions in `clients/`, without the ending.
        sent: forms of inputs that it can send.
        answered: forms of outputs that it can ask for.
        packings: encodings of the answer's body that it can ask for.
        versioned: whether it can name a version for inference.
        not_as_json: datatypes that it cannot put into JSON.
        never: datatypes that it does not know.
        finite: it cannot show NaN or infinities.
        through_doubles: it turns whole numbers and booleans into floats; whole ones beyond 2^53 are lost to it.
        tells_version: whether it shows the answer's model_version.
    """

    name: str
    driver: str
    environment: str
    sent: tuple[Form, ...] = ("JSON", "binary", "mixed")
    answered: tuple[Form, ...] = ("JSON", "binary", "mixed")
    packings: tuple[Packing, ...] = ("plain", "gzip", "deflate")
    versioned: bool = True
    not_as_json: frozenset[str] = frozenset({"BF16"})
    never: frozenset[str] = frozenset()
    finite: bool = False
    through_doubles: bool = False
    tells_version: bool = True

    def can_say(self, cell: Cell) -> bool:
        return (
            cell.sent in self.sent
            and cell.answered in self.answered
            and cell.packing in self.packings
            and (self.versioned or not cell.versioned)
            and cell.datatype not in self.never
            and not (cell.datatype in self.not_as_json and cell.sent != "binary")
        )

    def cells(self) -> Iterator[Cell]:
        return (cell for cell in whole_grid() if self.can_say(cell))

    def inputs(self, cell: Cell) -> dict[str, Tensor]:
        found = cell.inputs(all_finite=self.finite)
        return {name: _through_doubles(one) for name, one in found.items()} if self.through_doubles else found


CLIENTS_TRIED = (
    Client("tritonclient", "triton_sync", "triton"),
    Client("tritonclient aio", "triton_aio", "triton"),
    Client(
        "kserve", "kserve_rest", "kserve",
        versioned=False, never=frozenset({"BF16"}), not_as_json=frozenset({"FP16"}), tells_version=False,
    ),
    Client(
        "mlserver infer", "mlserver_infer", "mlserver",
        sent=("JSON", "binary"), answered=("JSON", "binary"), packings=("plain",), versioned=False,
        never=frozenset({"BF16"}), finite=True,
    ),
    Client(
        "open-inference-openapi", "openapi_client", "openapi",
        sent=("JSON",), answered=("JSON",), packings=("plain",), finite=True, through_doubles=True,
    ),
)  # fmt: skip

SCHEMATHESIS = "schemathesis"


def _through_doubles(one: Tensor) -> Tensor:
    """The tensor without what doubles, or text that reads as a number, would not survive."""
    elements = one.elements
    if one.datatype == "BYTES":
        return tensor("BYTES", [text if not _reads_as_number(text) else "seven" for text in elements])
    if one.datatype in NUMBERS and np.dtype(NUMBERS[one.datatype]).kind in "iu":
        return tensor(one.datatype, [value if abs(value) <= EXACT_IN_DOUBLES else 7 for value in elements])
    return one


def _reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def job(platform: Platform, items: list[dict[str, Any]]) -> dict[str, Any]:
    """What a driver reads."""
    return {
        "url": platform.info["router"],
        "host": platform.info["router"].removeprefix("http://"),
        "headers": {"authorization": f"Bearer {platform.info['api_key']}"},
        "tenant": platform.info["tenant"],
        "digits": DIGITS,
        "model": identity_of("INT32"),
        "infer": items,
    }


def item(client: Client, cell: Cell) -> dict[str, Any]:
    """A cell for a driver."""
    inputs = client.inputs(cell)
    return {
        "cell": cell.name,
        "model": identity_of(cell.datatype),
        "version": "1" if cell.versioned else "",
        "id": _id(cell),
        "packing": cell.packing,
        "answered": cell.answered_raw,
        "inputs": [{"name": n, "binary": cell.sent_raw[n], **packed(one)} for n, one in inputs.items()],
    }


def _id(cell: Cell) -> str:
    return "-".join(cell.name.replace(":", "").replace(",", "").split())


def drive(python: Path, driver: str, job: dict[str, Any]) -> dict[str, Any]:
    """Run a driver in its environment. Raises AssertionError when it does not end well.

    What the client prints goes to standard error, where a failing test shows it.
    """
    # The suite's own paths would put Moorage's libraries before the client's.
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    ended = subprocess.run(
        [str(python), "-W", "ignore", str(CLIENTS / f"{driver}.py")],
        input=json.dumps(job), capture_output=True, text=True, timeout=TIMEOUT_S, check=False, env=environment,
    )  # fmt: skip
    sys.stderr.write(ended.stderr[-8000:])
    assert ended.returncode == 0, f"{driver} ended with {ended.returncode}:\n{ended.stderr[-3000:]}"
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def judge(client: Client, cell: Cell, result: dict[str, Any], ledger: Ledger) -> Outcome:
    """Hold one result to what was sent."""
    if "error" in result:
        told = str(result["error"])
        is_refused = cell.may_be_refused and cell.datatype in told
        return ledger.note_cell(client.name, cell, "refused" if is_refused else "red", told)
    try:
        wanted = {"model_name": identity_of(cell.datatype), "id": _id(cell)}
        wanted |= {"model_version": "1"} if client.tells_version else {}
        for member, value in wanted.items():
            assert result[member] == value, f"{member} is {result[member]!r} instead of {value!r}"
        assert set(result["outputs"]) == {"x_out", "y_out"}, sorted(result["outputs"])
        for name, sent in client.inputs(cell).items():
            difference = first_difference(sent, unpacked(result["outputs"][f"{name}_out"]))
            assert not difference, f"{name}_out: {difference}"
    except AssertionError as error:
        return ledger.note_cell(client.name, cell, "red", str(error))
    return ledger.note_cell(client.name, cell, "green", "")
