"""The four buckets that a router follows, from the snapshot first and the bus after, and back to the snapshot."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog

from moorage_common.bus import Bus
from moorage_common.contracts.names import BUCKET_ENDPOINTS, BUCKET_KEYS, BUCKET_LIMITS, BUCKET_ROUTES
from moorage_common.contracts.versioned import Versioned
from moorage_common.kv import BucketReader
from moorage_router import snapshot

log = structlog.get_logger()

_WRITE_S = 1.0
Apply = Callable[[str, Versioned], None]


class Tables:
    """Readers of `keys`, `limits`, `routes`, `endpoints`; each entry they accept goes to the part that uses it."""

    def __init__(self, bus: Bus, path: Path, *, keys: Apply, limits: Apply, routes: Apply, endpoints: Apply) -> None:
        self._path = path
        self._changed = False
        applies = {
            BUCKET_KEYS: keys, BUCKET_LIMITS: limits, BUCKET_ROUTES: routes, BUCKET_ENDPOINTS: endpoints,
        }  # fmt: skip
        self.readers = {bucket: BucketReader(bus, bucket, self._noting(apply)) for bucket, apply in applies.items()}
        self.restored = False

    def _noting(self, apply: Apply) -> Apply:
        def take(key: str, entry: Versioned) -> None:
            self._changed = True
            apply(key, entry)

        return take

    def restore(self) -> None:
        """Take what the last process knew."""
        buckets = snapshot.read(self._path)
        for bucket, reader in self.readers.items():
            reader.restore(buckets.get(bucket, {}))
        self.restored = bool(buckets.get(BUCKET_KEYS))
        self._changed = False
        log.info("snapshot read", **{bucket: len(entries) for bucket, entries in buckets.items()})

    @property
    def known(self) -> bool:
        """Whether there is something to serve: every bucket was read whole, now or by an earlier process."""
        return self.restored or all(reader.synced.is_set() for reader in self.readers.values())

    async def run_snapshots(self) -> None:
        """Write the file, at most once a second, when something changed."""
        while True:
            await asyncio.sleep(_WRITE_S)
            await self.write()

    async def write(self) -> None:
        if not self._changed:
            return
        self._changed = False
        buckets = {bucket: dict(reader.entries) for bucket, reader in self.readers.items()}
        try:
            await asyncio.to_thread(snapshot.write, self._path, buckets)
        except OSError as error:
            self._changed = True
            log.error("snapshot not written", error=str(error))
