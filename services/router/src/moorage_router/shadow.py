"""Copies of requests to versions that answer nobody, made after the caller has its answer.

Whether a request is copied is decided when it is routed, before anybody knows how it ends: choosing by outcome would
let a shadow look worse than the version it is compared with. Copies take no quota and are on no bill; they are the
first that is left out when there is much to do, and none is made again.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

from moorage_common import trace
from moorage_common.contracts.feedback import Output
from moorage_common.errors import MoorageError
from moorage_router.calls import Call
from moorage_router.features.service import FeatureJoiner, Received
from moorage_router.feedback.outputs import PAIR_S, Outputs
from moorage_router.forwarding import Attempt
from moorage_router.limits.limiter import Tenant
from moorage_router.mirrors import Mirror, takes_same_body
from moorage_router.replicas import Host, Outgoing
from moorage_router.replies import HostReply
from moorage_router.routes import ServedRoute, ServedVersion
from moorage_router.shadow_series import ShadowTable
from moorage_router.signals.batch import Mark
from moorage_router.signals.book import Judged
from moorage_router.upstream import AnswerLost, ConnectFailed, Overdue

STRATUM = "shadow"
AT_ONCE = 32
"""Copies under way; of one tenant half of what others leave."""
COPIED_BYTES = 256 * 1024
"""Of one body: longer ones are passed on without being held."""
HELD_BYTES = 4 * 1024 * 1024
"""Of all bodies held for copies."""
BUSY = 0.8
"""Of its `max_concurrent`: from there on a tenant's room is for its own requests."""
LATE_S = 0.025
"""So late the loop's regular work may be before copies are left out, and for CALM_S after."""
CALM_S = 0.5
REFUSED = frozenset({401, 404, 503})
"""Of a host: it is another process than was thought, does not hold the version, or has no room."""


class Room:
    """How much is copied at one time, of a tenant and in all; and whether the event loop keeps up."""

    def __init__(self, parked: Callable[[str], int], every_s: float, now: Callable[[], float] = time.monotonic) -> None:
        """`parked` tells how many of a tenant's requests wait for a host; `tick` is called `every_s`."""
        self._parked = parked
        self._every_s = every_s
        self._now = now
        self._ticked = now()
        self._calm_at = 0.0
        self._tenants: Counter[str] = Counter()
        self._sizes: Counter[str] = Counter()
        self.copies = 0
        self.size = 0

    def tick(self) -> None:
        """The loop's regular work."""
        now = self._now()
        if now - self._ticked > self._every_s + LATE_S:
            self._calm_at = now + CALM_S
        self._ticked = now

    def lacks(self, tenant: Tenant, target: ServedVersion, size: int) -> str | None:
        """Why a copy of a request of `size` bytes is left out, or None."""
        now = self._now()
        name = tenant.name
        if now < self._calm_at or now - self._ticked > self._every_s + LATE_S:
            return "lag"
        if size > COPIED_BYTES:
            return "size"
        if self.copies >= AT_ONCE or self.size + size > HELD_BYTES or not self._is_fair(name, size):
            return "busy"
        parked = self._parked(name)
        if parked or target.replicas.parked:
            return "parked"
        if tenant.in_flight >= BUSY * tenant.limits.max_concurrent:
            return "limit"
        return None if target.replicas.ready else "no_replica"

    def _is_fair(self, name: str, size: int) -> bool:
        """Whether the tenant then has no more than half of what others leave: one or two whose versions hang, for as
        long as a deadline may be, keep nobody else out."""
        copies, held = self._tenants[name], self._sizes[name]
        may_have = (AT_ONCE - self.copies + copies + 1) // 2, (HELD_BYTES - self.size + held) / 2
        return copies < may_have[0] and held + size <= may_have[1]

    def take(self, tenant: Tenant, size: int) -> None:
        self.copies += 1
        self.size += size
        self._tenants[tenant.name] += 1
        self._sizes[tenant.name] += size

    def give_back(self, tenant: Tenant, size: int) -> None:
        self.copies -= 1
        self.size -= size
        self._tenants[tenant.name] -= 1
        self._sizes[tenant.name] -= size
        if not self._tenants[tenant.name]:
            del self._tenants[tenant.name], self._sizes[tenant.name]


@dataclass(frozen=True, slots=True)
class Original:
    """The request that copies are of, as the caller sent it.

    Attributes:
        judged: counts what becomes of it and of its copies; None where it takes no part.
    """

    request_id: str
    asks: Call
    body: bytes
    judged: Judged | None


class Shadows:
    """Makes copies, and counts what becomes of them."""

    def __init__(self, features: FeatureJoiner, outputs: Outputs, table: ShadowTable, room: Room) -> None:
        self.features = features
        self.outputs = outputs
        self.table = table
        self.room = room
        self._tasks: set[asyncio.Task[None]] = set()

    def drawn(self, route: ServedRoute, served: ServedVersion, *, keeps: bool) -> list[Mirror]:
        """Draw who is to get a copy of a request that `served` answers.

        Args:
            keeps: what the caller gets is kept for labels, so that another answer beside it is of use.
        """
        return [
            mirror
            for mirror in route.mirrors
            if mirror.served is not served
            and (mirror.of is None or mirror.of == served.number)
            and (keeps or not mirror.is_pair)
            and random.random() < mirror.share  # noqa: S311 - a share of the traffic, not a secret
        ]

    def admitted(self, tenant: Tenant, drawn: list[Mirror], body: bytes | None) -> list[Mirror]:
        """Those of `drawn` for which there is room, which is taken. `body` is None for one that is not held."""
        size = COPIED_BYTES + 1 if body is None else len(body)
        admitted = []
        for mirror in drawn:
            target = mirror.served
            lacks = self.room.lacks(tenant, target, size)
            if lacks is None:
                self.room.take(tenant, size)
                admitted.append(mirror)
            else:
                self.table.of(target.tenant, target.model, target.number).left_out(lacks)
        return admitted

    def begin(self, copy: Coroutine[None, None, None]) -> None:
        """Make a copy beside everything else."""
        task = asyncio.create_task(copy, name="shadow")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give up what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Copies:
    """Copies that will be made of one request. Their room is taken until each has ended, or is not made after all."""

    __slots__ = ("_mirrors", "_original", "_route", "_shadows", "_tenant")

    def __init__(
        self, shadows: Shadows, tenant: Tenant, route: ServedRoute, mirrors: list[Mirror], original: Original
    ) -> None:
        self._shadows = shadows
        self._tenant = tenant
        self._route = route
        self._mirrors = mirrors
        self._original = original

    @property
    def have_pair(self) -> bool:
        """Whether what one of them answers is kept beside what the caller got."""
        return any(mirror.is_pair for mirror in self._mirrors)

    def go(self, status: int, attempt: Attempt | None) -> None:
        """The caller has its answer: make them, unless nobody was asked, or nobody waited for it (499)."""
        for mirror in self._mirrors:
            if attempt is None or attempt.host is None or status == 499:
                self._over()
            else:
                self._shadows.begin(self._make(mirror, status, attempt, self._marks(mirror, status, attempt)))

    @property
    def _client(self) -> str:
        record = self._original.asks.credentials.record
        return "" if record is None else record.kid

    def _over(self) -> None:
        self._shadows.room.give_back(self._tenant, len(self._original.body))

    def _marks(self, mirror: Mirror, status: int, attempt: Attempt) -> Mark | None:
        """Count the request and its copy for the rollout that mirrors, both from now on: that of the copy."""
        original = self._original
        if not mirror.is_judged or original.judged is None:
            return None
        client = self._client
        served = original.judged.begin(attempt.served.number, client, STRATUM)
        if served is None:
            return None
        reply, took_us = attempt.reply, attempt.took_us
        if reply is None:
            served.done(status, took_us, attempt.host, "ok", None)
        else:
            took_us = reply.busy_us if status == 200 else took_us
            served.done(status, took_us, attempt.host, reply.state, reply.output)
        return original.judged.begin(mirror.served.number, client, STRATUM)

    async def _make(self, mirror: Mirror, status: int, attempt: Attempt, mark: Mark | None) -> None:
        target = mirror.served
        series = self._shadows.table.of(target.tenant, target.model, target.number)
        copied = Copied()
        try:
            await self._ask(copied, mirror, attempt)
        finally:
            self._over()
            series.ended(copied.outcome)
            output = copied.output
            if mark is not None:
                mark.done(copied.status, copied.took_us, copied.host, copied.state, output)
        if copied.status == 200 and status == 200 and attempt.reply is not None:
            series.both(attempt.reply.output, output, attempt.reply.busy_us, copied.took_us)
            if mirror.is_pair and output is not None:
                self._shadows.outputs.other(self._original.request_id, target.number, output)

    async def _ask(self, copied: "Copied", mirror: Mirror, attempt: Attempt) -> None:
        """Ask a host, once; `copied` has what became of it."""
        target = mirror.served
        started = time.monotonic()
        deadline = started + (PAIR_S if mirror.is_pair else self._route.deadline_s)
        try:
            outgoing = await self._outgoing(attempt, target, deadline)
        except MoorageError:
            return
        host = target.replicas.choose()
        if host is None:
            return
        copied.host, started = host, time.monotonic()
        host.in_flight += 1
        target.replicas.in_flight += 1
        target.replicas.requests += 1
        try:
            reply = await host.ask(outgoing, deadline)
        except ConnectFailed:
            copied.host = None
        except AnswerLost:
            copied.outcome, copied.status = "lost", 502
        except Overdue:
            copied.outcome, copied.status = "late", 504
        else:
            copied.take(reply)
        finally:
            if copied.status != 200:
                copied.took_us = int((time.monotonic() - started) * 1_000_000)
            host.in_flight -= 1
            target.replicas.in_flight -= 1

    async def _outgoing(self, attempt: Attempt, target: ServedVersion, deadline: float) -> Outgoing:
        """What the target is asked: the same as the caller's version, or joined anew where it takes other features."""
        original, was = self._original, attempt.call
        traceparent = trace.child_of(original.asks.traceparent).encode()
        if takes_same_body(attempt.served, target):
            return Outgoing(target.asking_line, was.fields, traceparent, was.body)
        fields, body = original.asks.body_fields, original.body
        if target.features is not None:
            received = Received(body, fields, self._tenant.limits.max_body_bytes)
            joined = await self._shadows.features.join(target, target.features, received, deadline)
            lines = [f"{name}: {value}\r\n" for name, value in joined.headers.items()]
            fields, body = "".join(lines).encode(), joined.body
        return Outgoing(target.asking_line, original.asks.passed_on + fields, traceparent, body)


@dataclass(slots=True)
class Copied:
    """What became of a copy. Without a host nobody worked on it, so it says nothing of the version.

    `took_us` is in the model where it was answered with 200: a copy is made while the router still deals with the
    answer before it, so that times seen from here would differ between equal versions.
    """

    outcome: str = "unsent"
    status: int = 499
    host: Host | None = None
    took_us: int = 0
    state: str = "ok"
    output: Output | None = None

    def take(self, reply: HostReply) -> None:
        """A host answered. One that does not hold the version (yet, or any more) did not work on it."""
        reply.discard()
        if reply.status in REFUSED:
            self.host = None
            return
        self.outcome = "ok" if reply.status == 200 else "error"
        self.status, self.state, self.output = reply.status, reply.state, reply.output
        self.took_us = reply.busy_us
