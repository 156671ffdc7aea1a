"""One platform a session for the contracts of all services."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "e2e")]
from contracts_stage import Stage, staged  # noqa: E402 - beside this file
from e2e_platform import Platform  # noqa: E402

from moorage_registry.people.testing import Provider, provider  # noqa: E402


@pytest.fixture(scope="session")
def people() -> Iterator[Provider]:
    """The identity provider that people sign in with."""
    with provider() as found:
        yield found


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory, people: Provider) -> Iterator[Platform]:
    options = ("--no-demo", "--identity-issuer", people.issuer)
    platform = Platform(tmp_path_factory.mktemp("platform") / "state", options)
    try:
        platform.start()
        yield platform
    finally:
        platform.end()


@pytest.fixture(scope="session")
def stage(platform: Platform, people: Provider) -> Iterator[Stage]:
    with staged(platform, people) as stage:
        yield stage
