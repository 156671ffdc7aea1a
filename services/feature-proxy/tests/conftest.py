"""A proxy on real NATS and Redis, and Feast's own SDK as the oracle."""

import asyncio
import contextlib
import importlib
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import redis

from moorage_common import api_keys
from moorage_common.bus import Bus
from moorage_common.contracts.keys import KeyRecord
from moorage_common.contracts.names import BUCKET_KEYS
from moorage_common.contracts.versioned import Versioned
from moorage_common.kv import BucketWriter
from moorage_common.secrets import internal_token
from moorage_feature_proxy.app import create_app
from moorage_feature_proxy.settings import Settings

PEPPER = "pepper of the tests"


@dataclass
class Keys:
    """API keys written to the bus as the registry does."""

    entries: dict[str, Versioned] = field(default_factory=dict)

    def new(self, tenant: str, *scopes: str, **fields: Any) -> api_keys.ApiKey:
        key = api_keys.mint("test")
        digest = api_keys.digest(PEPPER, key.secret)
        record = KeyRecord(kid=key.kid, tenant=tenant, digest=digest, scopes=list(scopes), **fields)
        self.entries[key.kid] = Versioned(epoch=1, version=1, value=record.model_dump(mode="json"))
        return key

    async def source(self) -> Mapping[str, Versioned]:
        return self.entries


@contextlib.asynccontextmanager
async def _writing(nats_url: str, keys: Keys) -> AsyncIterator[BucketWriter]:
    bus = Bus(nats_url, "registry-of-the-tests")
    await bus.start()
    writer = BucketWriter(bus, BUCKET_KEYS, "registry", keys.source)
    running = asyncio.create_task(writer.run())
    try:
        yield writer
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await bus.close()


@dataclass
class Proxy:
    """A running proxy: its HTTP, its operations port, the keys it knows and who writes them."""

    http: httpx.AsyncClient
    operations: httpx.AsyncClient
    keys: Keys
    writer: BucketWriter
    reader: api_keys.ApiKey

    async def put_definitions(self, tenant: str, content: bytes) -> httpx.Response:
        headers = internal(tenant)
        return await self.http.put("/v1/features/definitions", content=content, headers=headers)

    async def online(self, tenant: str, service: str, **entities: list[Any]) -> httpx.Response:
        body = {"service": service, "entities": entities}
        return await self.http.post("/v1/features/online", json=body, headers=internal(tenant))

    async def columns(self, tenant: str, service: str, **entities: list[Any]) -> dict[str, dict[str, Any]]:
        answer = await self.online(tenant, service, **entities)
        assert answer.status_code == 200, answer.text
        return {column["name"]: column for column in answer.json()["columns"]}


def internal(tenant: str) -> dict[str, str]:
    return {"authorization": f"Bearer {internal_token(PEPPER)}", "moorage-tenant": tenant}


Start = Callable[..., AbstractAsyncContextManager[Proxy]]


@pytest.fixture
def start_proxy(nats_url: str, tmp_path: Path) -> Start:
    """Start a proxy on a Redis URL, with a fresh state directory unless one is given."""

    @contextlib.asynccontextmanager
    async def start(redis_url: str, **settings: Any) -> AsyncIterator[Proxy]:
        keys = Keys()
        reader = keys.new("acme", "features:read")
        given = {"state_dir": tmp_path / "state", "pepper": PEPPER, "nats_url": nats_url, "redis_url": redis_url}
        app, operations = create_app(Settings(**(given | settings)))
        async with _writing(nats_url, keys) as writer, app.router.lifespan_context(app):
            async with asyncio.timeout(20):
                while reader.kid not in app.state.deps.keys_reader.entries:  # noqa: ASYNC110 - no event for one key
                    await asyncio.sleep(0.01)
            transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
            side = httpx.ASGITransport(app=operations)
            async with (
                httpx.AsyncClient(transport=transport, base_url="http://proxy") as http,
                httpx.AsyncClient(transport=side, base_url="http://proxy") as ops,
            ):
                yield Proxy(http, ops, keys, writer, reader)

    return start


@pytest.fixture
async def proxy(start_proxy: Start, redis_url: str) -> AsyncIterator[Proxy]:
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    async with start_proxy(redis_url, redis_timeout_ms=2000) as running:
        yield running


@pytest.fixture(scope="session")
def feast() -> Iterator[Any]:
    """Feast's SDK. Its import takes seconds and warns about others' deprecations."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield importlib.import_module("feast")


@dataclass
class Repo:
    """A tenant's Feast: a file registry, and the Redis that the proxy reads."""

    store: Any
    registry_file: Path

    def apply(self, *objects: Any) -> bytes:
        """What `feast apply` leaves behind, to be uploaded."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.store.apply(list(objects))
        return self.registry_file.read_bytes()

    def write(self, view: str, rows: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.store.write_to_online_store(view, rows)

    def online(self, service: str, **entities: list[Any]) -> Any:
        """The response message of `get_online_features`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = self.store.get_feature_service(service)
            return self.store.get_online_features(found, entity_rows=entities, full_feature_names=True)


@pytest.fixture
def new_repo(feast: Any, redis_url: str, tmp_path: Path) -> Callable[[str], Repo]:
    def new(project: str) -> Repo:
        folder = tmp_path / f"feast-{project}"
        folder.mkdir()
        url = urlsplit(redis_url)
        connection = f"{url.hostname}:{url.port}" + (f",password={url.password}" if url.password else "")
        config = feast.RepoConfig(
            project=project,
            provider="local",
            registry=str(folder / "registry.pb"),
            online_store={"type": "redis", "connection_string": connection},
            offline_store={"type": "file"},
            entity_key_serialization_version=3,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Repo(feast.FeatureStore(config=config), folder / "registry.pb")

    return new


@pytest.fixture
def source(feast: Any, tmp_path: Path) -> Callable[[str], Any]:
    """A file source for views that are only written to online."""

    def new(name: str) -> Any:
        return feast.FileSource(name=name, path=str(tmp_path / "none.parquet"), timestamp_field="event_timestamp")

    return new


@pytest.fixture
def types(feast: Any) -> Any:
    return importlib.import_module("feast.types")
