"""`moorage tenants` and `client.tenants` against a real registry."""

import tarfile
from pathlib import Path
from typing import Protocol

import pytest
from typer.testing import CliRunner, Result

from moorage_sdk.cli.app import app
from moorage_sdk.client import Client
from moorage_sdk.errors import MoorageApiError


class Registry(Protocol):
    """What the fixture of conftest gives."""

    url: str
    api_key: str
    admin_key: str


@pytest.fixture
def admin(registry: Registry) -> Client:
    return Client(registry.url, "http://127.0.0.1:9", registry.admin_key)


def moorage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, registry: Registry, *arguments: str) -> Result:
    monkeypatch.setenv("MOORAGE_PROFILE_FILE", str(tmp_path / "profiles.yaml"))
    for name, value in (("REGISTRY", registry.url), ("ROUTER", "http://127.0.0.1:9"), ("API_KEY", registry.admin_key)):
        monkeypatch.setenv(f"MOORAGE_{name}", value)
    return CliRunner().invoke(app, ["tenants", *arguments])


def test_a_tenant_is_suspended_resumed_exported_and_deleted_from_the_command_line(
    registry: Registry, admin: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run(*arguments: str) -> Result:
        done = moorage(monkeypatch, tmp_path, registry, *arguments)
        assert done.exit_code == 0, (done.output, done.exception)
        return done

    run("create", "quay")
    with Client(registry.url, "http://127.0.0.1:9", registry.admin_key, tenant="quay") as acting:
        key = str(acting.registry.create_key(["keys:admin"])["key"])
    with admin, Client(registry.url, "http://127.0.0.1:9", key) as own:
        run("suspend", "quay")
        with pytest.raises(MoorageApiError) as refused:
            own.registry.whoami()
        assert refused.value.code == "tenant_suspended"
        assert "suspended" in run("show", "quay").stdout
        run("resume", "quay")
        assert own.registry.whoami()["tenant"] == "quay"
        run("export", "quay", str(tmp_path / "quay.tar"))
        with tarfile.open(tmp_path / "quay.tar") as archive:
            assert "quay/complete.json" in archive.getnames()
        assert own.tenants.export("quay", tmp_path / "own.tar") == (tmp_path / "own.tar").stat().st_size
        wrong = moorage(monkeypatch, tmp_path, registry, "delete", "quay", "--confirm", "qauy")
        assert isinstance(wrong.exception, MoorageApiError)
        assert wrong.exception.code == "deletion_not_confirmed"
        run("delete", "quay", "--confirm", "quay", "--wait")
        assert admin.tenants.get("quay")["status"] == "deleted"


def test_an_export_that_is_refused_leaves_no_file(registry: Registry, admin: Client, tmp_path: Path) -> None:
    with admin, pytest.raises(MoorageApiError) as refused:
        admin.tenants.export("nobody", tmp_path / "none.tar")
    assert refused.value.code == "tenant_not_found"
    assert list(tmp_path.iterdir()) == []
