"""W3C trace context (www.w3.org/TR/trace-context): carried always; spans are made elsewhere, only when sampled."""

import random
import re

_TRACEPARENT = re.compile(r"^00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})$")


def child_of(traceparent: str | None) -> str:
    """A `traceparent` for the next hop: same trace and flags, new parent id; a new unsampled trace without one."""
    match = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    if match is None:
        fresh = f"{random.getrandbits(192):048x}"
        return f"00-{fresh[:32]}-{fresh[32:]}-00"
    return f"00-{match[1]}-{random.getrandbits(64):016x}-{match[3]}"


def trace_id(traceparent: str) -> str:
    return traceparent[3:35]
