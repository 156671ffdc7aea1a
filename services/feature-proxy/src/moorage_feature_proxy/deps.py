"""The composition root."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from moorage_common.bus import Bus
from moorage_common.clock import wall_clock
from moorage_common.contracts.names import BUCKET_KEYS, BUCKET_LIMITS
from moorage_common.key_refresh import KeyRefresh
from moorage_common.key_table import KeyTable
from moorage_common.kv import BucketReader
from moorage_common.networks import Proxies
from moorage_feature_proxy.auth import Authenticator
from moorage_feature_proxy.lookup import Lookup
from moorage_feature_proxy.metrics import Metrics
from moorage_feature_proxy.online_store import OnlineStore
from moorage_feature_proxy.settings import Settings
from moorage_feature_proxy.uploads import Uploads


@dataclass(frozen=True)
class Deps:
    """Everything an endpoint uses."""

    authenticator: Authenticator
    uploads: Uploads
    lookup: Lookup
    store: OnlineStore
    metrics: Metrics
    keys_reader: BucketReader


@asynccontextmanager
async def running(settings: Settings, metrics: Metrics) -> AsyncIterator[Deps]:
    """The service's objects, with the readers of keys and limits following the bus."""
    pepper = settings.pepper.get_secret_value()
    bus = Bus(settings.nats_url.get_secret_value(), "feature-proxy")
    keys = KeyTable(pepper)
    keys_reader = BucketReader(bus, BUCKET_KEYS, keys.on_key)
    limits_reader = BucketReader(bus, BUCKET_LIMITS, keys.on_limits)
    uploads = Uploads(settings.state_dir)
    store = OnlineStore(
        url=settings.redis_url.get_secret_value(),
        timeout_s=settings.redis_timeout_ms / 1000,
        connections=settings.redis_connections,
        metrics=metrics,
    )
    refresh = KeyRefresh(settings.registry_url, pepper, keys_reader, limits_reader)
    await bus.start()
    followers = [asyncio.create_task(follower.run()) for follower in (keys_reader, limits_reader, refresh)]
    try:
        yield Deps(
            authenticator=Authenticator(keys, keys_reader, pepper, wall_clock, Proxies(settings.trusted_proxies)),
            uploads=uploads,
            store=store,
            lookup=Lookup(uploads, store, metrics, wall_clock),
            metrics=metrics,
            keys_reader=keys_reader,
        )
    finally:
        for follower in followers:
            follower.cancel()
        await asyncio.gather(*followers, return_exceptions=True)
        await bus.close()
        await store.close()
