"""One `moorage up` a session, talked to as its users do: SDK, HTTP, and signals to its processes."""

import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler

from moorage_sdk.client import Client

HERE = Path(__file__).parent
sys.path.append(str(HERE))
from e2e_platform import Note, Platform  # noqa: E402 - beside this file


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.slow)


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


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory, note: Note) -> Iterator[Platform]:
    """The platform that all tests share; started again by those that end it."""
    platform = Platform(tmp_path_factory.mktemp("platform") / "state")
    try:
        platform.start()
        note("start_s", round(platform.started_in_s, 1))
        yield platform
    finally:
        platform.end()


@pytest.fixture
def client(platform: Platform) -> Iterator[Client]:
    """The demo tenant's client."""
    with platform.client() as client:
        yield client


@pytest.fixture(scope="session")
def pictures() -> np.ndarray:
    """1,797 handwritten digits, 64 pixels each."""
    found: np.ndarray = load_digits().data
    return found


@pytest.fixture(scope="session")
def classifier(pictures: np.ndarray) -> Pipeline:
    """Trained on the pictures."""
    return make_pipeline(MinMaxScaler(), LogisticRegression(C=0.1, max_iter=300)).fit(pictures, load_digits().target)


@pytest.fixture
def name(platform: Platform) -> Iterator[str]:
    """A model name of this test's own; its deployment is removed afterwards, wherever the platform then listens."""
    name = f"m-{uuid.uuid4().hex[:10]}"
    yield name
    with platform.client() as client:
        if client.registry.deployment(name) is not None:
            client.registry.delete_deployment(name)
