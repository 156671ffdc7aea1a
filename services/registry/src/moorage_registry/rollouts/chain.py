"""Verdicts linked by hashes, so that none can be changed, dropped or slipped in unseen. Pure.

Each hash covers its row and the hash before it; the first one's predecessor covers what the rollout was started as.
"""

import hashlib
import json
import math
from collections.abc import Sequence
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


def intact(row: RolloutRow, verdicts: Sequence[RolloutVerdictRow]) -> bool:
    """Whether `verdicts`, by number, are all that were given, as they were given, under the policy that is told."""
    if len(verdicts) != row.verdicts or digest(row.policy) != row.policy_hash:
        return False
    previous = anchor(row)
    for number, verdict in enumerate(verdicts, start=1):
        if (verdict.number, verdict.previous) != (number, previous) or link(verdict) != verdict.hash:
            return False
        previous = verdict.hash
    return True


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
