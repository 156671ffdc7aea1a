"""What the delivery tests share: the repository's root, and programs that are optional outside CI."""

import os
import shutil
from importlib import import_module
from pathlib import Path

import pytest

from moorage_common.settings import ServiceSettings

ROOT = Path(__file__).resolve().parents[2]


def optional_program(name: str) -> str:
    """Path of a program of `.ci/tools`. Skips without it, or fails where MOORAGE_REQUIRE_OPTIONAL=1."""
    path = shutil.which(name, path=f"{ROOT / '.tools/bin'}{os.pathsep}{os.environ.get('PATH', '')}")
    if path is not None:
        return path
    reason = f"{name} is not here; install it with .ci/tools (needs Go)"
    if os.environ.get("MOORAGE_REQUIRE_OPTIONAL") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


class SettingsOf:
    """The variables that a service (`feature-proxy`) reads."""

    def __init__(self, service: str) -> None:
        module = import_module(f"moorage_{service.replace('-', '_')}.settings")
        of_module = [found for found in vars(module).values() if isinstance(found, type)]
        (settings,) = (
            found for found in of_module if issubclass(found, ServiceSettings) and found is not ServiceSettings
        )
        self._fields = settings.model_fields

    @property
    def known(self) -> set[str]:
        return {f"MOORAGE_{name.upper()}" for name in self._fields}

    @property
    def required(self) -> set[str]:
        return {f"MOORAGE_{name.upper()}" for name, field in self._fields.items() if field.is_required()}


@pytest.fixture(params=["registry", "router", "scheduler", "feature-proxy"])
def service(request: pytest.FixtureRequest) -> str:
    """Each of the services in turn."""
    name: str = request.param
    return name


@pytest.fixture
def settings_of(service: str) -> SettingsOf:
    return SettingsOf(service)


@pytest.fixture(scope="session")
def helm() -> str:
    return optional_program("helm")


@pytest.fixture(scope="session")
def compose() -> list[str]:
    """The command `docker compose`; no engine is needed to check a file."""
    return [optional_program("docker-compose")]
