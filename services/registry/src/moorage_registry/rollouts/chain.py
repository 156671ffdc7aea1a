"""Verdicts linked by hashes, so that none can be changed, dropped or slipped in unseen. Pure.

Each hash covers its row and the hash before it; the first one's predecessor covers what the rollout was started as.
"""

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any

from moorage_registry.rollouts.tables import RolloutRow, RolloutVerdictRow


def canonical(value: Any) -> str:
    """JSON with one spelling: sorted keys, no spaces, ASCII. Raises ValueError where a number is not finite."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def plain(value: Any) -> Any:
    """`value` as JSON gives it back: keys are text, tuples lists, and numbers that JSON has not are null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON, in hex."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def anchor(row: RolloutRow) -> str:
    """What the first verdict is linked to."""
    return digest([row.id, row.tenant, row.model, row.stable, row.candidate, row.policy_hash])


def link(verdict: RolloutVerdictRow) -> str:
    """The hash that `verdict` must have."""
    numbers = [verdict.rollout, verdict.number, verdict.seq, float(verdict.at).hex(), verdict.kind]
    return digest([verdict.previous, *numbers, verdict.detail])


@dataclass
class Chain:
    """Whether the verdicts that it is shown, by number, are all that `row` had, as they were, under the policy told."""

    row: RolloutRow
    _seen: int = 0
    _last: str = ""
    _is_whole: bool = True

    def show(self, verdict: RolloutVerdictRow) -> None:
        """The next verdict."""
        self._seen += 1
        previous = self._last or anchor(self.row)
        is_next = (verdict.number, verdict.previous) == (self._seen, previous)
        self._is_whole = self._is_whole and is_next and link(verdict) == verdict.hash
        self._last = verdict.hash

    @property
    def intact(self) -> bool:
        """Once all have been shown."""
        row = self.row
        all_there = (self._seen, self._last) == (row.verdicts, row.head)
        return self._is_whole and all_there and digest(row.policy) == row.policy_hash


def exact(value: Any) -> Any:
    """`value` with every float as its hexadecimal text: equal only where each bit is."""
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, dict):
        return {str(key): exact(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [exact(one) for one in value]
    return value


def bits(value: Any) -> str:
    """A digest of `value` that differs where a single bit of a float does."""
    return digest(exact(value))
