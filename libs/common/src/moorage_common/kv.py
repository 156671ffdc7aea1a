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

import nats.js.errors
import structlog
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

    def silence_s(self) -> float:
        """Seconds since the last heartbeat."""
        return time.monotonic() - self._last_heartbeat

    async def run(self) -> None:
        """Follow the bucket until cancelled."""
        while True:
            try:
                await self.bus.wait()
                await self._follow()
            except BUS_ERRORS as error:
                log.debug("watch ended", bucket=self.bucket, error=str(error))
            await asyncio.sleep(0.25)

    async def _follow(self) -> None:
        kv = await self.bus.jetstream().key_value(self.bucket)
        watcher = await kv.watchall()
        try:
            await self._read_whole(watcher)
            while time.monotonic() - max(self._last_heartbeat, self._opened) < SILENCE_S:
                with contextlib.suppress(TimeoutError):
                    update = await watcher.updates(timeout=HEARTBEAT_S)
                    if update is not None:
                        self._take(update, None)
            log.info("no heartbeat, reading again", bucket=self.bucket)
        finally:
            with contextlib.suppress(*BUS_ERRORS):
                await watcher.stop()

    async def _read_whole(self, watcher: KeyValue.KeyWatcher) -> None:
        """Take the initial values, then drop what a complete bucket no longer has."""
        self._opened = time.monotonic()
        seen: set[str] = set()
        rebuilt: list[str] = []
        while (update := await watcher.updates(timeout=SILENCE_S)) is not None:
            heartbeat = self._take(update, seen)
            if heartbeat is not None:
                rebuilt.append(heartbeat.prefix)
        for key in [k for k in self.entries if k not in seen and any(k.startswith(p) for p in rebuilt)]:
            self._drop(key)
        if rebuilt:
            self.synced.set()

    def _take(self, update: KeyValue.Entry, seen: set[str] | None) -> Heartbeat | None:
        """Apply one entry of the watch; the heartbeat when it is one."""
        key = update.key
        try:
            if key.startswith(HEARTBEAT_PREFIX):
                heartbeat = Heartbeat.model_validate_json(update.value or b"")
                if seen is None:
                    self._last_heartbeat = time.monotonic()
                    self.synced.set()
                return heartbeat
            if not key.startswith(self.prefix):
                return None
            if update.operation in ("DEL", "PURGE"):
                if seen is None:
                    self._drop(key)
                return None
            self.accept(key, Versioned.model_validate_json(update.value or b""))
            if seen is not None:
                seen.add(key)
        except ValidationError as error:
            log.warning("unreadable entry ignored", bucket=self.bucket, key=key, errors=error.error_count())
        return None

    def _drop(self, key: str) -> None:
        held = self.entries.pop(key, None)
        if held is not None and held.value is not None:
            self.on_change(key, Versioned(epoch=held.epoch, version=held.version, value=None))


@dataclass
class BucketWriter:
    """The one writer of the keys under `prefix`. `source` gives the whole of them, tombstones included.

    Call `put` after each change; `run` keeps the heartbeat, rebuilds a wiped bucket and compares all every 30 s.
    """

    bus: Bus
    bucket: str
    writer: str
    source: Source
    prefix: str = ""
    epoch: int = 1
    _dirty: asyncio.Event = field(default_factory=asyncio.Event)

    async def put(self, key: str, entry: Versioned) -> bool:
        """Write `entry` unless the bucket holds a newer one. False when the bus is away: `run` makes up for it."""
        try:
            await self._put(await self.bus.bucket(self.bucket), key, entry)
        except BUS_ERRORS as error:
            log.debug("put later", bucket=self.bucket, key=key, error=str(error))
            self._dirty.set()
            return False
        return True

    async def _put(self, kv: KeyValue, key: str, entry: Versioned) -> None:
        payload = entry.model_dump_json().encode()
        for _attempt in range(5):
            try:
                held = await kv.get(key)
            except (nats.js.errors.KeyNotFoundError, nats.js.errors.KeyDeletedError):
                revision = 0
            else:
                if held.value and Versioned.model_validate_json(held.value).order >= entry.order:
                    return
                revision = held.revision or 0
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
        while True:
            try:
                await self.bus.wait()
                kv = await self.bus.bucket(self.bucket)
                info = await self.bus.jetstream().stream_info(f"KV_{self.bucket}")
                now = time.monotonic()
                if str(info.created) != created or self._dirty.is_set() or now >= next_reconcile:
                    self._dirty.clear()
                    await self._reconcile(kv)
                    created, next_reconcile = str(info.created), now + RECONCILE_S
                await self._beat(kv)
            except BUS_ERRORS as error:
                log.debug("heartbeat failed", bucket=self.bucket, error=str(error))
                created = ""
            await asyncio.sleep(HEARTBEAT_S)

    async def _beat(self, kv: KeyValue) -> None:
        beat = Heartbeat(writer=self.writer, prefix=self.prefix, epoch=self.epoch, at=time.time())
        await kv.put(f"{HEARTBEAT_PREFIX}{self.writer}", beat.model_dump_json().encode())

    async def _reconcile(self, kv: KeyValue) -> None:
        """Bring the bucket to what `source` says; purge keys that it no longer has."""
        held = await self._held(kv)
        wanted = await self.source()
        gate = asyncio.Semaphore(_PUTS_AT_ONCE)

        async def write(key: str, entry: Versioned) -> None:
            async with gate:
                await self._put(kv, key, entry)

        stale = [(k, e) for k, e in wanted.items() if k not in held or held[k] < e.order]
        await asyncio.gather(*(write(key, entry) for key, entry in stale))
        for key in held.keys() - wanted.keys():
            await kv.purge(key)

    async def _held(self, kv: KeyValue) -> dict[str, tuple[int, int]]:
        held: dict[str, tuple[int, int]] = {}
        watcher = await kv.watchall()
        try:
            while (update := await watcher.updates(timeout=SILENCE_S)) is not None:
                if update.key.startswith(HEARTBEAT_PREFIX) or not update.key.startswith(self.prefix):
                    continue
                if update.value and update.operation not in ("DEL", "PURGE"):
                    with contextlib.suppress(ValidationError):
                        held[update.key] = Versioned.model_validate_json(update.value).order
        finally:
            await watcher.stop()
        return held
