"""Registry, routers and feature-proxy as processes, before a cluster that the test plays."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from moorage_common.testing.servers import Server

HERE = Path(__file__).parent
sys.path.append(str(HERE))
from isolation_platform import Note, Parts  # noqa: E402 - beside this file


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--sequences", type=int, default=30, help="How many sequences of operations two tenants are tried with."
    )


MEASURED = pytest.StashKey[dict[str, object]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[MEASURED] = {}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.stash[MEASURED]:
        terminalreporter.section("measured")
        for what, value in config.stash[MEASURED].items():
            terminalreporter.line(f"{what}: {value}")


@pytest.fixture(scope="session")
def note(pytestconfig: pytest.Config) -> Note:
    """Keep a measurement for the summary."""
    return pytestconfig.stash[MEASURED].__setitem__


@pytest.fixture
async def parts(own_nats: Server, redis_url: str, tmp_path: Path) -> AsyncIterator[Parts]:
    """Two routers and one of everything else, on SQLite and a bus of their own."""
    database = f"sqlite+aiosqlite:///{tmp_path}/registry.db"
    async with Parts.running(tmp_path, own_nats.url, redis_url, database, routers=2) as running:
        yield running
