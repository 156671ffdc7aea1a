"""Key-value state across processes: one writer a key range, ordered by (epoch, version), heartbeats, re-opened watches.

A NATS watch goes silent for good when the server is killed and restarted, or when its bucket is deleted and made
again. So writers put a heartbeat each second, and a reader that misses it opens a new watch and reads the whole. A
bucket without its writer's heartbeat has not been rebuilt yet: readers then keep what they hold.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import nats.js.errors
import structlog
from nats.js import JetStreamContext
from nats.js.kv import KeyValue
from pydantic import ValidationError

from moorage_common.bus import BUS_ERRORS, Bus
from moorage_common.contracts.versioned import HEARTBEAT_PREFIX, Heartbeat, Versioned

log = structlog.get_logger()

HEARTBEAT_S = 1.0
SILENCE_S = 3.0
"""A reader that has seen no heartbeat for this long opens a new watch."""
RECONCILE_S = 30.0
_PUTS_AT_ONCE = 64
_HEADERS_BYTES = 1024
"""Room for the headers of a put: the server counts them, and drops the connection over too large a message."""

OnChange = Callable[[str, Versioned], None]
Source = Callable[[], Awaitable[Mapping[str, Versioned]]]


@dataclass
class BucketReader:
    """A bucket held in memory and kept current. `on_change` sees every accepted entry, tombstones included.

    A key that vanished during an outage is reported as a tombstone (`value=None`) of its last order.
    """

    bus: Bus
    bucket: str
    on_change: OnChange
    prefix: str = ""
    entries: dict[str, Versioned] = field(default_factory=dict)
    synced: asyncio.Event = field(default_factory=asyncio.Event)
    _last_heartbeat: float = -1e9
    _opened: float = -1e9

    def restore(self, entries: Mapping[str, Versioned]) -> None:
        """Take entries from a snapshot; the bus overrides them."""
        for key, entry in entries.items():
            self.accept(key, entry)

    def accept(self, key: str, entry: Versioned) -> bool:
        """Take `entry` if it is newer than what is held. An older version never overwrites a newer."""
        held = self.entries.get(key)
        if held is not None and held.order >= entry.order:
            return False
        self.entries[key] = entry
        self.on_change(key, entry)
        return True

    def take_whole(self, whole: Mapping[str, Versioned], held: Mapping[str, Versioned]) -> None:
        """Take all that the writer has, heard another way than by the bus.

        Args:
            held: the entries as they were when the writer was asked. What is newer is not gone for lacking in `whole`.
        """
        for key, entry in whole.items():
            self.accept(key, entry)
        for key, entry in held.items():
            if key not in whole and self.entries.get(key) is entry:
                self._drop(key)
        self.synced.set()

    def silence_s(self) -> float:
        """Seconds since the last heartbeat."""
        return time.monotonic() - self._last_heartbeat

    async def run(self) -> None:
        """Follow the bucket until cancelled."""
        while not cancelled():
            try:
                await self.bus.wait()
                await self._follow()
            except BUS_ERRORS as error:
                log.debug("watch ended", bucket=self.bucket, error=str(error))
            await asyncio.sleep(0.25)

    async def _follow(self) -> None:
        js = self.bus.jetstream()
        kv = await js.key_value(self.bucket)
        view = _View(created=await _created(js, self.bucket))
        watcher = await kv.watchall()
        try:
            self._opened = time.monotonic()
            while (update := await watcher.updates(timeout=SILENCE_S)) is not None:
                self._take(update, view)
            view.initial = False
            for prefix in view.beats:
                self._complete(prefix, view)
            while not cancelled() and time.monotonic() - max(self._last_heartbeat, self._opened) < SILENCE_S:
                with contextlib.suppress(TimeoutError):
                    update = await watcher.updates(timeout=HEARTBEAT_S)
                    if update is not None:
                        self._take(update, view)
            log.debug("no heartbeat, reading again", bucket=self.bucket)
        finally:
            with contextlib.suppress(*BUS_ERRORS):
                await watcher.stop()

    def _take(self, update: KeyValue.Entry, view: "_View") -> None:
        """Apply one entry of the watch."""
        key = update.key
        try:
            if key.startswith(HEARTBEAT_PREFIX):
                self._hear(Heartbeat.model_validate_json(update.value or b""), view)
            elif not key.startswith(self.prefix):
                return
            elif update.operation in ("DEL", "PURGE"):
                if not view.initial:
                    self._drop(key)
            else:
                view.seen.add(key)
                self.accept(key, Versioned.model_validate_json(update.value or b""))
        except ValidationError as error:
            log.warning("unreadable entry ignored", bucket=self.bucket, key=key, errors=error.error_count())

    def _hear(self, beat: Heartbeat, view: "_View") -> None:
        if beat.created not in ("", view.created):
            return
        if view.initial:
            view.beats.append(beat.prefix)
            return
        self._last_heartbeat = time.monotonic()
        self._complete(beat.prefix, view)

    def _complete(self, prefix: str, view: "_View") -> None:
        """The writer of `prefix` has filled this bucket: what it no longer has is gone."""
        if prefix in view.complete:
            return
        view.complete.add(prefix)
        for key in [k for k in self.entries if k not in view.seen and k.startswith(prefix)]:
            self._drop(key)
        self.synced.set()

    def _drop(self, key: str) -> None:
        held = self.entries.pop(key, None)
        if held is not None and held.value is not None:
            self.on_change(key, Versioned(epoch=held.epoch, version=held.version, value=None))


@dataclass
class _View:
    """What one watch has shown so far of the bucket made at `created`."""

    created: str
    initial: bool = True
    seen: set[str] = field(default_factory=set)
    beats: list[str] = field(default_factory=list)
    complete: set[str] = field(default_factory=set)


def cancelled() -> bool:
    """Whether this task was told to end: Python 3.11's `asyncio.wait_for`, which nats-py uses, may swallow that."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _created(js: JetStreamContext, bucket: str) -> str:
    return str((await js.stream_info(f"KV_{bucket}")).created)


@dataclass
class BucketWriter:
    """The one writer of the keys under `prefix`. `source` gives the whole of them, tombstones included.

    Call `put` after each change; `run` keeps the heartbeat, rebuilds a wiped bucket and compares all every 30 s. While
    `may_write` says no, nothing is written: of several that could be the one writer, only one is.
    """

    bus: Bus
    bucket: str
    writer: str
    source: Source
    prefix: str = ""
    epoch: int = 1
    may_write: Callable[[], bool] = lambda: True
    _dirty: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def behind(self) -> bool:
        """Whether the bucket lacks something that was put: `run` will make up for it."""
        return self._dirty.is_set() or not self.bus.connected

    async def put(self, key: str, entry: Versioned) -> bool:
        """Write `entry` unless the bucket holds a newer one. False when the bus is away: `run` makes up for it.

        An entry over NATS's largest message is logged and left out.
        """
        if not self.bus.connected or not self.may_write():
            self._dirty.set()
            return False
        try:
            await self._put(await self.bus.bucket(self.bucket), key, entry)
        except BUS_ERRORS as error:
            log.debug("put later", bucket=self.bucket, key=key, error=str(error))
            self._dirty.set()
            return False
        return True

    async def _put(self, kv: KeyValue, key: str, entry: Versioned) -> None:
        payload = entry.model_dump_json().encode()
        if len(payload) + _HEADERS_BYTES > self.bus.client.max_payload:
            # Never fits, so neither tried again nor let stop the heartbeat and the other keys.
            log.error("entry too large, left out", bucket=self.bucket, key=key, size_bytes=len(payload))
            return
        for _attempt in range(5):
            try:
                held = await kv.get(key)
            except (nats.js.errors.KeyNotFoundError, nats.js.errors.KeyDeletedError):
                revision = 0
            else:
                order = _order(held.value)
                if order is not None and order >= entry.order:
                    return
                revision = held.revision or 0
            if not self.may_write():
                break
            try:
                if revision:
                    await kv.update(key, payload, last=revision)
                else:
                    await kv.create(key, payload)
            except (nats.js.errors.KeyWrongLastSequenceError, nats.js.errors.BadRequestError):
                continue
            return
        self._dirty.set()

    async def run(self) -> None:
        """Heartbeat and reconcile until cancelled."""
        created = ""
        next_reconcile = 0.0
        while not cancelled():
            try:
                await self.bus.wait()
                kv = await self.bus.bucket(self.bucket)
                found = await _created(self.bus.jetstream(), self.bucket)
                now = time.monotonic()
                if not self.may_write():
                    created = ""
                    await asyncio.sleep(HEARTBEAT_S)
                    continue
                if found != created or self._dirty.is_set() or now >= next_reconcile:
                    created = ""
                    self._dirty.clear()
                    await self._reconcile(kv)
                    created, next_reconcile = found, now + RECONCILE_S
                await self._beat(kv, created)
            except BUS_ERRORS as error:
                log.debug("heartbeat failed", bucket=self.bucket, error=str(error))
            except Exception:  # the source's own failures, a database that is away: readers keep what they hold
                log.exception("bucket not reconciled", bucket=self.bucket)
            await asyncio.sleep(HEARTBEAT_S)

    async def _beat(self, kv: KeyValue, created: str) -> None:
        beat = Heartbeat(writer=self.writer, prefix=self.prefix, epoch=self.epoch, at=time.time(), created=created)
        await kv.put(f"{HEARTBEAT_PREFIX}{self.writer}", beat.model_dump_json().encode())

    async def _reconcile(self, kv: KeyValue) -> None:
        """Bring the bucket to what `source` says; purge keys that it no longer has."""
        held = await self._held(kv)
        wanted = await self.source()
        gate = asyncio.Semaphore(_PUTS_AT_ONCE)

        async def write(key: str, entry: Versioned) -> None:
            async with gate:
                await self._put(kv, key, entry)

        stale = [(k, e) for k, e in wanted.items() if k not in held or held[k].order < e.order]
        await asyncio.gather(*(write(key, entry) for key, entry in stale))
        for key in held.keys() - wanted.keys():
            if self.may_write():
                # Only what was read: what another writer has put there since is not ours to remove.
                with contextlib.suppress(nats.js.errors.BadRequestError):
                    await kv.delete(key, last=held[key].revision)

    async def _held(self, kv: KeyValue) -> dict[str, "_Held"]:
        held: dict[str, _Held] = {}
        watcher = await kv.watchall()
        try:
            while (update := await watcher.updates(timeout=SILENCE_S)) is not None:
                if update.key.startswith(HEARTBEAT_PREFIX) or not update.key.startswith(self.prefix):
                    continue
                if update.operation not in ("DEL", "PURGE"):
                    held[update.key] = _Held(_order(update.value) or (-1, -1), update.revision or 0)
        finally:
            await watcher.stop()
        return held


class _Held(NamedTuple):
    """A stored entry: its order, and the bucket's revision of it."""

    order: tuple[int, int]
    revision: int


def _order(value: bytes | None) -> tuple[int, int] | None:
    """(epoch, version) of a stored entry, or None when it cannot be read."""
    try:
        return Versioned.model_validate_json(value or b"").order
    except ValidationError:
        return None
