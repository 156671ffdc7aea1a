"""What operators want of a cluster, and what the registry asks its leading scheduler.

`clusters/<cluster>` is written by the registry; requests go to `scheduler.<cluster>` over core NATS. Tenants' questions
reach the scheduler through the registry only, which fills in who asks.
"""

import base64
import json
import zlib
from typing import Any, Literal

from pydantic import Field

from moorage_common.contracts.model import Contract


class ClusterIntent(Contract):
    """Value of `clusters/<cluster>`."""

    cluster: str
    drained: list[str] = Field(default=[], description="Nodes that take no more replicas and lose those they have.")


class SchedulerAsk(Contract):
    """One question or order.

    `explain`: why a model's replicas are where they are, or wait. `nodes`: nodes, devices and who sits where.
    `state`: all that placement decides by, to be replayed. `shares`: the queue tree, of `tenant` where one is given.
    `defragment`: the moves that would gather free room; carried out unless `dry_run`.
    """

    what: Literal["explain", "nodes", "state", "shares", "defragment"]
    tenant: str = Field(default="", description="Whose; empty for operators, who see all.")
    model: str = ""
    dry_run: bool = True
    everything: bool = Field(default=False, description="An operator asks: names of other tenants may be told.")
    take: str = Field(default="", description="Of an answer in parts: its `take`, to ask for `part` of it.")
    part: int = Field(default=0, ge=0)


class SchedulerAnswer(Contract):
    """`error` is a sentence for people where there is no answer."""

    answer: dict[str, Any] = {}
    error: str = ""
    packed: str = Field(default="", description="In place of `answer`, a part of its JSON: zlib, then base64.")
    parts: int = Field(default=1, description="How many parts there are; the others are asked for with `take`.")
    take: str = ""


def packed_parts(answer: dict[str, Any], part_bytes: int) -> list[str]:
    """A large answer as texts for `packed`, none longer than `part_bytes` before base64."""
    whole = zlib.compress(json.dumps(answer, separators=(",", ":")).encode())
    pieces = [whole[start : start + part_bytes] for start in range(0, len(whole), part_bytes)]
    return [base64.b64encode(piece).decode() for piece in pieces]


def unpacked(parts: list[str], most_bytes: int) -> dict[str, Any]:
    """The answer of all its `packed` parts in order. Raises ValueError when they are no such thing, or too large."""
    opened = zlib.decompressobj()
    try:
        text = opened.decompress(b"".join(base64.b64decode(part, validate=True) for part in parts), most_bytes)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if not opened.eof:
        message = f"the answer is cut off or longer than {most_bytes} bytes"
        raise ValueError(message)
    found = json.loads(text)
    if not isinstance(found, dict):
        message = "the answer is no JSON object"
        raise ValueError(message)
    return found
