"""Following a tenant's events as server-sent events (html.spec.whatwg.org, section 9.2)."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from moorage_common.contracts.events import CloudEvent
from moorage_common.contracts.names import TenantId
from moorage_common.db import Database
from moorage_common.errors import BadRequest, MoorageError
from moorage_common.outbox import OutboxRow
from moorage_registry.events.repository import PAGE, EventRepository

HEARTBEAT_S = 10.0
ASK_S = 0.4
"""With POLL_S, how long a key that may no longer goes on hearing events, at most."""
POLL_S = 0.5


@dataclass
class Commits:
    """Wakes followers when something was committed here; they poll for what other registries commit."""

    stopping: bool = False
    _waiting: set[asyncio.Event] = field(default_factory=set)

    def wake(self) -> None:
        for event in self._waiting:
            event.set()

    def stop(self) -> None:
        """The process is asked to end: so are followers, who come back to another."""
        self.stopping = True
        self.wake()

    async def next(self, timeout_s: float) -> None:
        """Until the next commit, `timeout_s` at most."""
        event = asyncio.Event()
        self._waiting.add(event)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await event.wait()
        finally:
            self._waiting.discard(event)


@dataclass(frozen=True)
class EventStream:
    """One follower. `still_allowed` raises when its key no longer may; it is asked each half second, before more."""

    db: Database
    commits: Commits
    tenant: TenantId
    still_allowed: Callable[[], Awaitable[None]]

    async def start(self, last_event_id: str | None) -> int:
        """Where to begin: after the event named, else at the first. Raises BadRequest when it is unknown."""
        if not last_event_id:
            return 0
        async with self.db.read() as session:
            position = await EventRepository(session).position(self.tenant, last_event_id)
        if position is None:
            message = "Last-Event-ID names no event of this tenant; leave it out to read from the first one"
            raise BadRequest(message, code="unknown_event")
        return position

    async def lines(self, cursor: int, *, follow: bool) -> AsyncIterator[str]:
        """Events after `cursor` as server-sent events, with a comment every 10 s; endless where `follow`."""
        spoke = asked = time.monotonic()
        while True:
            if follow and time.monotonic() - asked >= ASK_S:
                try:
                    await self.still_allowed()
                except MoorageError:
                    return
                asked = time.monotonic()
            async with self.db.read() as session:
                rows = await EventRepository(session).after(self.tenant, cursor)
            for row in rows:
                cursor = row.id
                yield _event(row)
            if len(rows) == PAGE:
                continue
            if not follow or self.commits.stopping:
                return
            if time.monotonic() - spoke >= HEARTBEAT_S:
                yield ": still here\n\n"
                spoke = time.monotonic()
            await self.commits.next(POLL_S)


def _event(row: OutboxRow) -> str:
    kind = CloudEvent.model_validate_json(row.payload).type
    return f"id: {row.event_id}\nevent: {kind}\ndata: {row.payload}\n\n"
