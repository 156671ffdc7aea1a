"""docs/conformance.md, from what the run found."""

from collections import Counter
from collections.abc import Iterable

from conformance.cells import FORMS, Ledger, Outcome, whole_grid
from conformance.drivers import CLIENTS_TRIED, SCHEMATHESIS
from conformance.raw import RAW
from conformance.tensors import DATATYPES

CAPABILITIES = (
    "infer", "versions", "health", "metadata", "repository index", "statistics", "tolerated", "errors", "specification",
)  # fmt: skip
TRIED = (RAW, *(client.name for client in CLIENTS_TRIED), SCHEMATHESIS)

HEAD = """# Conformance

What independent clients of the Open Inference Protocol got from the whole platform. `make conformance` starts
`moorage up`, pushes an ONNX identity for each datatype and two versions of a classifier, makes each client an
environment of its own, compares every answer bit by bit, fails on any red cell and writes this page; CI fails where a
run finds other figures. It tried {cells} cells.

A number is how many cells are green. A *refused* cell got 400 with the protocol's error, where that is in order: BF16
needs no JSON form.

## Clients

"""

MATRIX = """
## Datatypes

{{{datatypes} datatypes}} x {{JSON, binary in}} x {{JSON, binary, mixed out}} x {{version, none}} x
{{plain, gzip, deflate}} are {least} cells: plain HTTP got {green} green, {refused} refused and {red} red. Inputs of
both forms in one body are {more} more.

Columns say how inputs went in and outputs came out; *mixed* is one tensor as raw bytes and one as JSON in one body. A
number counts all clients, the versioned and the unversioned path, and plain, gzip and deflate bodies, as far as a
client can express them; plain HTTP asks all {grid}. Values are the extremes of each datatype: 64-bit integers beyond
2^53, subnormals, -0, NaN and infinities where both ways are raw bytes, empty and non-ASCII strings.

"""

TAIL = """
## What a client cannot express

| client | cannot |
|---|---|
| tritonclient, sync and aio | BF16 as JSON input |
| kserve | versions in the path, packed requests, BF16, FP16 as JSON; it shows no `model_version` |
| mlserver infer | versions in the path, packed bodies, mixed forms, BF16; NaN and infinities in its file of answers |
| open-inference-openapi | raw bytes; integers beyond 2^53 and texts that read as numbers, which it turns to floats |

Not offered, and not among the extensions of `GET /v2`: loading and unloading of models, their configuration, shared
memory, tracing, logging, `generate`.
"""


def is_complete(ledger: Ledger) -> bool:
    """Whether everything was tried, so that the page may be written."""
    return set(TRIED) <= {outcome.client for outcome in ledger.outcomes} and len(
        [o for o in ledger.outcomes if o.client == RAW and o.datatype]
    ) == len(list(whole_grid()))


def page(ledger: Ledger) -> str:
    """The whole page."""
    head = HEAD.format(cells=f"{len(ledger.outcomes):,}")
    cells = list(whole_grid())
    least = [outcome for outcome in ledger.outcomes if outcome.client == RAW and outcome.sent in {"JSON", "binary"}]
    states = Counter(outcome.state for outcome in least)
    matrix = MATRIX.format(
        grid=len(cells),
        datatypes=len(DATATYPES),
        least=len(least),
        more=len(cells) - len(least),
        **{state: states[state] for state in ("green", "refused", "red")},
    )
    return head + "\n".join(_clients(ledger)) + "\n" + matrix + "\n".join(_matrix(ledger)) + "\n" + TAIL


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _clients(ledger: Ledger) -> Iterable[str]:
    yield _row(["client", *CAPABILITIES])
    yield _row(["---"] * (1 + len(CAPABILITIES)))
    for client in TRIED:
        own = [outcome for outcome in ledger.outcomes if outcome.client == client]
        named = f"{client} {ledger.versions.get(client, '')}".strip()
        yield _row([named, *(_count([o for o in own if o.capability == c]) for c in CAPABILITIES)])
    for client, remark in ledger.remarks.items():
        yield f"\n{client}: {remark}."


def _matrix(ledger: Ledger) -> Iterable[str]:
    forms = [(sent, answered) for sent in FORMS for answered in FORMS]
    yield _row(["datatype", *(f"{sent} → {answered}" for sent, answered in forms)])
    yield _row(["---"] * (1 + len(forms)))
    for datatype in DATATYPES:
        own = [outcome for outcome in ledger.outcomes if outcome.datatype == datatype]
        yield _row([datatype, *(_count([o for o in own if (o.sent, o.answered) == form]) for form in forms)])


def _count(outcomes: list[Outcome]) -> str:
    """Such as `54`, `48, 6 refused` or `**3 red**`."""
    counted = Counter(outcome.state for outcome in outcomes)
    shown = [str(counted["green"])] if counted["green"] else []
    shown += [f"{counted['refused']} refused"] if counted["refused"] else []
    shown += [f"**{counted['red']} red**"] if counted["red"] else []
    return ", ".join(shown) or "–"
