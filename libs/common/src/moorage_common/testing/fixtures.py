"""pytest fixtures: servers that tests share, or one's own to kill."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from moorage_common.testing.servers import Server, nats_server, postgres_server, redis_server


@pytest.fixture(scope="module")
def nats_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A nats-server with JetStream that a module's tests share; another platform's writes are not theirs to read."""
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server.url


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis with a password that all tests of the session share."""
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A Postgres (SQLAlchemy URL with asyncpg) that all tests of the session share."""
    with postgres_server() as server:
        yield server.url


@pytest.fixture
def own_nats(tmp_path: Path) -> Iterator[Server]:
    """A nats-server of this test alone, to kill and restart."""
    with nats_server(tmp_path / "nats") as server:
        yield server


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[Server]:
    """A Redis of this test alone, to kill and restart; it keeps its data over a restart."""
    with redis_server(tmp_path / "redis", appendonly=True) as server:
        yield server
