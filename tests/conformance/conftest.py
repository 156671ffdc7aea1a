"""One platform a session with every model on it, and the ledger of what the clients got from it."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "e2e")]
from conformance.cells import Ledger  # noqa: E402 - beside this file
from conformance.models import deploy_all, identity_of  # noqa: E402
from conformance.raw import Wire  # noqa: E402
from conformance.refusals import Strict, strict  # noqa: E402
from e2e_platform import Platform  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(420))


@pytest.fixture(scope="session")
def ledger() -> Ledger:
    """What became of every cell."""
    return Ledger()


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """The platform with every model deployed; MOORAGE_CONFORMANCE_STATE names the state of one that runs already."""
    if running := os.environ.get("MOORAGE_CONFORMANCE_STATE"):
        yield Platform(Path(running), info=json.loads((Path(running) / "local.json").read_text()))
        return
    platform = Platform(tmp_path_factory.mktemp("platform") / "state")
    try:
        platform.start()
        with platform.client() as client:
            deploy_all(client)
        yield platform
    finally:
        platform.end()


@pytest.fixture(scope="session")
def wire(platform: Platform) -> Iterator[Wire]:
    """Plain HTTP to the router."""
    wire = Wire(platform.info["router"], platform.info["api_key"])
    yield wire
    wire.close()


@pytest.fixture(scope="session")
def strictness(platform: Platform, wire: Wire) -> Strict:
    """What good requests are refused for."""
    return strict(platform, wire, identity_of("INT32"))
