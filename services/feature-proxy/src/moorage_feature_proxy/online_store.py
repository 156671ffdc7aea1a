"""Reads of Feast's Redis layout: one hash a row of entities, fetched with pipelined HMGETs, never waiting for long.

When Redis is away or slow: a batch that has no answer within the timeout fails as 503 `feature_store_unavailable`;
after three failures in a row calls fail at once, with one probe a second, until one succeeds.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from redis.asyncio import Redis
from redis.asyncio.connection import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from moorage_common.errors import MoorageError, Unavailable
from moorage_feature_proxy.metrics import Metrics
from moorage_feature_proxy.values import project_of

FAILURES_TO_OPEN = 3
COOL_DOWN_S = 1.0
KEYS_A_BATCH, CELLS_A_BATCH = 200, 2000
"""Keys and values read in one pipeline: one wait for Redis covers no more, so a busy proxy is not taken for a slow
Redis, and other requests get their turn in between."""

FORGET_S = 1.0
SCAN_COUNT = 1000

Row = list[bytes | None]


@dataclass(frozen=True, slots=True)
class Read:
    """One HMGET of `fields` for each of `keys`."""

    keys: Sequence[bytes]
    fields: Sequence[bytes]


@dataclass
class Breaker:
    """Whether a call may go out. Decides from what it is told; holds no clock."""

    failures: int = 0
    closed_until_s: float = 0.0

    def allows(self, now_s: float) -> bool:
        """True while healthy; after `FAILURES_TO_OPEN` failures in a row, once every `COOL_DOWN_S`."""
        if self.failures < FAILURES_TO_OPEN:
            return True
        if now_s < self.closed_until_s:
            return False
        self.closed_until_s = now_s + COOL_DOWN_S
        return True

    def succeeded(self) -> None:
        self.failures = 0

    def failed(self, now_s: float) -> None:
        self.failures += 1
        self.closed_until_s = now_s + COOL_DOWN_S


@dataclass
class OnlineStore:
    """A Redis that Feast writes to. Tenants are apart by their project, the end of every key."""

    url: str = field(repr=False)
    timeout_s: float
    connections: int
    metrics: Metrics
    breaker: Breaker = field(default_factory=Breaker)

    def __post_init__(self) -> None:
        self._slots = asyncio.Semaphore(self.connections)
        self._pool = ConnectionPool.from_url(
            self.url,
            max_connections=self.connections,
            socket_connect_timeout=self.timeout_s,
            retry=Retry(NoBackoff(), 0),
        )

    async def read(self, reads: Sequence[Read]) -> list[list[Row]]:
        """The rows of each read, in the order of its keys. Raises Unavailable."""
        async with self._slots:
            return await self._read_all(reads)

    async def _read_all(self, reads: Sequence[Read]) -> list[list[Row]]:
        """Asks the breaker here, so that calls which queued behind a hung Redis fail at once."""
        if not self.breaker.allows(time.monotonic()):
            raise self._unavailable("breaker", "")
        try:
            rows = [await self._read(read) for read in reads]
        except TimeoutError:
            self.breaker.failed(time.monotonic())
            raise self._unavailable("timeout", f"no answer in {self.timeout_s} s") from None
        except ResponseError as error:
            raise self._unavailable("response", str(error)) from error
        except (RedisError, OSError) as error:
            self.breaker.failed(time.monotonic())
            raise self._unavailable("connection", str(error)) from error
        self.breaker.succeeded()
        return rows

    async def _read(self, read: Read) -> list[Row]:
        batch = max(1, min(KEYS_A_BATCH, CELLS_A_BATCH // len(read.fields)))
        rows: list[Row] = []
        for start in range(0, len(read.keys), batch):
            rows += await self._batch(read.keys[start : start + batch], read.fields)
        return rows

    async def _batch(self, keys: Sequence[bytes], fields: Sequence[bytes]) -> list[Row]:
        """One pipeline on one connection. The fields are the same for all keys, so they are packed once."""
        head = b"*%d\r\n$5\r\nHMGET\r\n" % (len(fields) + 2)
        tail = b"".join(b"$%d\r\n%b\r\n" % (len(name), name) for name in fields)
        packed = b"".join(b"%b$%d\r\n%b\r\n%b" % (head, len(key), key, tail) for key in keys)
        async with asyncio.timeout(self.timeout_s):
            connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
        whole = False
        try:
            async with asyncio.timeout(self.timeout_s):
                await connection.send_packed_command(packed, check_health=False)
                rows: list[Row] = [await connection.read_response() for _ in keys]
            whole = True
        finally:
            if not whole:
                await connection.disconnect(nowait=True)
            await self._pool.release(connection)
        return rows

    async def forget(self, project: str, cursor: int) -> tuple[int, int]:
        """Remove rows of the project for at most a second or so; how many, and where to go on (0: there are no more).

        Every key of the store is looked at: Feast puts the project at a key's end, where another's name may end alike.
        Raises Unavailable.
        """
        client = Redis(connection_pool=self._pool)
        until, removed = time.monotonic() + FORGET_S, 0
        pattern = b"*" + project.encode()
        try:
            while True:
                async with asyncio.timeout(self.timeout_s):
                    cursor, keys = await client.scan(cursor, match=pattern, count=SCAN_COUNT)
                    own = [key for key in keys if project_of(key) == project.encode()]
                    if own:
                        removed += await client.unlink(*own)
                if cursor == 0 or time.monotonic() > until:
                    return cursor, removed
        except (RedisError, OSError, TimeoutError) as error:
            raise self._unavailable("forget", str(error)) from error

    def _unavailable(self, reason: str, detail: str) -> MoorageError:
        self.metrics.store_failures.labels(reason).inc()
        message = "the feature store does not answer; try again"
        code = "feature_store_unavailable"
        return Unavailable(message, code=code, detail=f"{reason}: {detail}", retry_after_s=COOL_DOWN_S)

    async def close(self) -> None:
        await self._pool.disconnect()
