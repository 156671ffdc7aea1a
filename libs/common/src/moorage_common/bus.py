"""The connection to NATS: made in the background, kept for ever, so that a service starts and serves without it."""

import asyncio
import contextlib
from dataclasses import dataclass, field

import nats
import nats.errors
import nats.js.errors
import structlog
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, KeyValueConfig, RetentionPolicy, StorageType, StreamConfig
from nats.js.kv import KeyValue

log = structlog.get_logger()

BUS_ERRORS: tuple[type[Exception], ...] = (nats.errors.Error, nats.js.errors.Error, OSError, asyncio.TimeoutError)
"""What any use of the bus may raise while it is away."""


@dataclass
class Bus:
    """One NATS connection. `start` returns at once; `wait` blocks until the first connection stands."""

    url: str
    name: str
    _client: Client | None = None
    _connected: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._connect(), name="bus-connect")

    async def _connect(self) -> None:
        async def on_error(error: Exception) -> None:
            log.debug("bus error", error=str(error))

        async def on_disconnect() -> None:
            log.warning("bus disconnected")

        async def on_reconnect() -> None:
            log.info("bus reconnected")

        while True:
            try:
                self._client = await nats.connect(
                    self.url,
                    name=self.name,
                    connect_timeout=2,
                    reconnect_time_wait=0.25,
                    max_reconnect_attempts=-1,
                    ping_interval=5,
                    max_outstanding_pings=2,
                    error_cb=on_error,
                    disconnected_cb=on_disconnect,
                    reconnected_cb=on_reconnect,
                )
            except BUS_ERRORS as error:
                log.debug("bus not reachable yet", error=str(error))
                await asyncio.sleep(0.25)
            else:
                self._connected.set()
                return

    async def wait(self, timeout_s: float | None = None) -> None:
        """Until the first connection stands. Raises TimeoutError."""
        await asyncio.wait_for(self._connected.wait(), timeout_s)

    @property
    def connected(self) -> bool:
        return self._client is not None and self._client.is_connected

    @property
    def client(self) -> Client:
        """The connection. Raises ConnectionError before the first one stands."""
        if self._client is None:
            message = "NATS has not been reached yet"
            raise ConnectionError(message)
        return self._client

    def jetstream(self, timeout_s: float = 2.0) -> JetStreamContext:
        return self.client.jetstream(timeout=timeout_s)

    async def bucket(self, name: str) -> KeyValue:
        """The key-value bucket, made when absent (file storage, one value a key)."""
        js = self.jetstream()
        try:
            return await js.key_value(name)
        except nats.js.errors.BucketNotFoundError:
            return await js.create_key_value(KeyValueConfig(bucket=name, history=1, storage=StorageType.FILE))

    async def ensure_stream(
        self,
        name: str,
        subjects: list[str],
        max_age_s: float,
        storage: StorageType = StorageType.FILE,
        max_bytes: int = -1,
        *,
        retention: RetentionPolicy = RetentionPolicy.LIMITS,
        discard: DiscardPolicy = DiscardPolicy.OLD,
    ) -> None:
        """The stream, made when absent (duplicates refused for two minutes; `discard`: what goes when it is full)."""
        js = self.jetstream()
        try:
            await js.stream_info(name)
        except nats.js.errors.NotFoundError:
            config = StreamConfig(
                name=name,
                subjects=subjects,
                max_age=max_age_s,
                max_bytes=max_bytes,
                storage=storage,
                retention=retention,
                discard=discard,
                duplicate_window=120,
            )
            await js.add_stream(config)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._client is not None and not self._client.is_closed:
            with contextlib.suppress(*BUS_ERRORS):
                await self._client.close()
