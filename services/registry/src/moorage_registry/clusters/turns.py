"""Tenants' questions to the scheduler: one at a time of each, since who answers places nobody's replicas meanwhile."""

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from moorage_common.errors import OverQuota

QUESTIONS_MOST = 4
"""Of one tenant: the one that is asked and those that wait for it."""
REST_TIMES = 4
"""A tenant's next question comes so many times later as the last one took: a fifth of the scheduler is the most."""
REST_MOST_S = 1.0


@dataclass
class _Line:
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    count: int = 0
    rests_until: float = 0.0


class Turns:
    """Who may ask now."""

    def __init__(self) -> None:
        self._lines: defaultdict[str, _Line] = defaultdict(_Line)

    @contextlib.asynccontextmanager
    async def of(self, tenant: str) -> AsyncIterator[None]:
        """While it is the tenant's turn. Raises OverQuota where too many of its questions wait already."""
        line = self._lines[tenant]
        if line.count >= QUESTIONS_MOST:
            message = f"{line.count} questions of {tenant} to the scheduler wait for an answer; ask again after those"
            raise OverQuota(message, code="too_many_questions", retry_after_s=REST_MOST_S)
        line.count += 1
        try:
            async with line.turn:
                await asyncio.sleep(line.rests_until - time.monotonic())
                began = time.monotonic()
                try:
                    yield
                finally:
                    ended = time.monotonic()
                    line.rests_until = ended + min(REST_MOST_S, REST_TIMES * (ended - began))
        finally:
            line.count -= 1
