"""Time as a value that tests can hold still."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], float]
"""Seconds since 1970."""

wall_clock: Clock = time.time


def rfc3339(at: float) -> str:
    """`at` (seconds since 1970) as RFC 3339 in UTC with milliseconds."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
