"""One leader among a cluster's schedulers: a lease in a key-value bucket, taken and renewed by compare-and-set.

No clock is shared. A candidate takes the lease once it has *itself* seen it unchanged for as long as a lease lasts, by
its own steady clock, as in Kubernetes' `client-go/tools/leaderelection`; the leader counts from before it sent the last
renewal that succeeded, and stops acting `MARGIN_S` before that span ends. So a leader that was stopped, or that the bus
does not hear, has ceased to act when another begins. What it has on its way even so carries its fencing number, which
is lower than its successor's, and loses.
"""

import asyncio
import contextlib
import os
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import structlog
from nats.js.errors import BadRequestError, KeyNotFoundError
from pydantic import ValidationError

from moorage_common.bus import BUS_ERRORS, Bus
from moorage_common.contracts.model import Contract
from moorage_common.contracts.names import BUCKET_LEASES
from moorage_common.kv import cancelled

log = structlog.get_logger()

LEASE_S = 4.0
RENEW_S = 1.0
MARGIN_S = 1.0
"""Between the last moment the leader acts and the first at which another may: for what is on its way to Ray."""

Role = Literal["leader", "standby", "candidate"]
"""`standby`: another leads, and shows it. `candidate`: nobody is known to lead."""


class LeadershipLost(Exception):
    """Another leads, or may: this process must act no more, and ends."""


class Lease(Contract):
    """Value of `leases/scheduler.<cluster>`. `holder` is empty once given back; `beat` changes with each renewal."""

    holder: str = ""
    fencing: int = 0
    beat: int = 0


@dataclass(frozen=True)
class Seen:
    """A lease as the bucket held it; `lease` is None where there was none. `revision` is 0 then."""

    lease: Lease | None
    revision: int


@dataclass(frozen=True)
class Watch:
    """What a candidate has seen of the lease and since when, in its own steady seconds. `alive`: it saw it change."""

    seen: Seen
    since: float
    alive: bool = False

    def follow(self, seen: Seen, now: float) -> "Watch":
        """The watch after another look."""
        return self if seen == self.seen else Watch(seen, now, alive=True)

    def may_take(self, now: float, lease_s: float, holder: str) -> bool:
        """Whether the lease was given back, is that of `holder` or of the process that it stands in for, or has not
        changed for as long as it lasts."""
        held = self.seen.lease
        is_free = held is not None and (held.holder in ("", holder) or _stands_in(holder, held.holder))
        return is_free or now - self.since >= lease_s


def next_fencing(highest: int, now: float) -> int:
    """The number of the next leader: above all seen, and above all before a wiped bucket as long as time goes on."""
    return max(highest + 1, int(now))


def steady() -> float:
    """Seconds that go on while the machine sleeps, too, where the kernel counts them."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def holder_name(name: str = "") -> str:
    """A holder that no other process has.

    Args:
        name: of a process that is only started again once it has ended, so that one of this name stands in for those
            before it at once; empty where nobody sees to that.
    """
    unique = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    return f"{name}/{unique}" if name else unique


def _stands_in(holder: str, other: str) -> bool:
    name, slash, _unique = holder.partition("/")
    return bool(slash) and other.startswith(f"{name}/")


@dataclass
class Leadership:
    """This process's part in the election of `cluster`'s leader.

    Attributes:
        holder: this process's name in the lease.
        fencing: while it leads, higher than that of every leader before; the epoch of all it writes.
    """

    bus: Bus
    cluster: str
    lease_s: float = LEASE_S
    renew_s: float = RENEW_S
    margin_s: float = MARGIN_S
    clock: Callable[[], float] = steady
    wall_clock: Callable[[], float] = time.time
    holder: str = field(default_factory=holder_name)
    fencing: int = 0
    _revision: int = 0
    _beat: int = 0
    _renewed_at: float | None = None
    _highest: int = 0
    _watch: Watch | None = None

    @property
    def role(self) -> Role:
        if self.fencing:
            return "leader"
        watch = self._watch
        other = watch is not None and watch.seen.lease is not None and watch.seen.lease.holder
        return "standby" if other and watch is not None and watch.alive else "candidate"

    @property
    def leader(self) -> str:
        """Who leads, as far as is known; empty for nobody."""
        if self.fencing:
            return self.holder
        lease = self._watch.seen.lease if self._watch is not None else None
        return lease.holder if lease is not None else ""

    def valid(self) -> bool:
        """Whether this process may act now: nobody else can have taken the lease yet."""
        return self._renewed_at is not None and self.clock() - self._renewed_at < self.lease_s - self.margin_s

    async def acquire(self, able: Callable[[], bool] = lambda: True) -> int:
        """Wait until this process leads; its fencing number. While it is not `able`, it only watches."""
        while not cancelled():
            try:
                await self.bus.wait()
                watch = await self._look()
                if able() and watch.may_take(self.clock(), self.lease_s, self.holder):
                    await self._take(watch.seen)
            except BUS_ERRORS as error:
                self._watch = None  # silence of the bus is no sign of the leader's
                log.debug("lease not seen", error=str(error))
            if self.valid():
                log.info("leading", holder=self.holder, fencing=self.fencing)
                return self.fencing
            await asyncio.sleep(self.renew_s / 2)
        raise asyncio.CancelledError

    async def keep(self) -> None:
        """Renew until cancelled. Raises LeadershipLost when another has taken the lease."""
        was_valid = True
        while not cancelled():
            await asyncio.sleep(self.renew_s)
            try:
                await self._renew()
            except BUS_ERRORS as error:
                log.debug("lease not renewed", error=str(error))
            if self.valid() != was_valid:
                was_valid = not was_valid
                log.warning("the lease is renewed again" if was_valid else "lease not renewed: nothing is changed")

    async def rise_above(self, epoch: int) -> None:
        """Take a fencing number higher than `epoch`, found on what an earlier leader left. Raises LeadershipLost.

        Needed once the bucket of leases was lost and the clock of that leader was ahead of ours.
        """
        self._highest = max(self._highest, epoch)
        if self.fencing > epoch:
            return
        self.fencing = next_fencing(self._highest, self.wall_clock())
        log.warning("an earlier leader's number was higher", found=epoch, fencing=self.fencing)
        while not cancelled():
            with contextlib.suppress(*BUS_ERRORS):
                if await self._renew():
                    return
            await asyncio.sleep(self.renew_s / 2)

    async def release(self) -> None:
        """Act no more, and let another lead at once."""
        held, self._renewed_at = self.valid(), None
        if not held or not self.bus.connected:
            return
        free = Lease(holder="", fencing=self.fencing, beat=self._beat + 1)
        with contextlib.suppress(*BUS_ERRORS, LeadershipLost):
            try:
                await self._put(free, self._revision)
            except BadRequestError:
                await self._check()  # a renewal was on its way when we were told to end
                await self._put(free, self._revision)
            log.info("lease given back")

    def step_down(self, reason: str) -> LeadershipLost:
        """Act no more; the error to end with."""
        self._renewed_at = None
        return LeadershipLost(reason)

    async def _look(self) -> Watch:
        seen = await self._read()
        now = self.clock()
        watch = self._watch = Watch(seen, now) if self._watch is None else self._watch.follow(seen, now)
        if seen.lease is not None:
            self._highest = max(self._highest, seen.lease.fencing)
        return watch

    async def _take(self, seen: Seen) -> None:
        """Try to make the lease ours; nothing is changed when another was quicker."""
        fencing, sent_at = next_fencing(self._highest, self.wall_clock()), self.clock()
        try:
            self._revision = await self._put(Lease(holder=self.holder, fencing=fencing), seen.revision)
        except BadRequestError:
            return
        self.fencing, self._beat, self._renewed_at = fencing, 0, sent_at

    async def _renew(self) -> bool:
        """Write the lease once more; whether it stands. Raises LeadershipLost."""
        if not self.valid():
            await self._check()
        for _attempt in range(2):
            sent_at, lease = self.clock(), Lease(holder=self.holder, fencing=self.fencing, beat=self._beat + 1)
            try:
                self._revision = await self._put(lease, self._revision)
            except BadRequestError:
                await self._check()  # an earlier renewal that was not confirmed, a wiped bucket, or another leader
            else:
                self._beat, self._renewed_at = lease.beat, sent_at
                return True
        return False

    async def _check(self) -> None:
        """Take the revision of our lease from the bucket. Raises LeadershipLost where another holds it.

        After silence the bucket is read before it is written: one made anew may have come to the same revision.
        """
        seen = await self._read()
        if seen.lease is None and not self.valid():
            raise self.step_down("the bucket of leases was wiped while this leader was not heard")
        if seen.lease is not None and seen.lease.holder != self.holder:
            raise self.step_down(f"{seen.lease.holder or 'nobody'} holds the lease")
        self._revision = seen.revision

    @property
    def _key(self) -> str:
        return f"scheduler.{self.cluster}"

    async def _read(self) -> Seen:
        kv = await self.bus.bucket(BUCKET_LEASES)
        try:
            entry = await kv.get(self._key)
        except KeyNotFoundError:
            return Seen(None, 0)
        try:
            return Seen(Lease.model_validate_json(entry.value or b""), entry.revision or 0)
        except ValidationError:
            log.error("unreadable lease", key=self._key)
            return Seen(Lease(holder="?"), entry.revision or 0)

    async def _put(self, lease: Lease, last: int) -> int:
        """Write over revision `last`, 0 for none; the new one. Raises BadRequestError when another was quicker."""
        if not self.bus.connected:
            message = "NATS is away"
            raise ConnectionError(message)
        kv, payload = await self.bus.bucket(BUCKET_LEASES), lease.model_dump_json().encode()
        return await (kv.update(self._key, payload, last=last) if last else kv.create(self._key, payload))
