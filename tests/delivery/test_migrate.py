"""What the chart's migration Job and the registry's wait for it run."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "registry.db"


def run(root: Path, database: Path, *options: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "deploy/docker/migrate.py"), *options]
    variables = {**os.environ, "MOORAGE_DATABASE_URL": f"sqlite+aiosqlite:///{database}"}
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=timeout_s, check=False)


def test_the_wait_ends_once_the_schema_is_there_and_migrating_twice_changes_nothing(root: Path, database: Path) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        run(root, database, "--wait", timeout_s=8)
    for _ in range(2):
        done = run(root, database)
        assert done.returncode == 0, done.stderr
    assert run(root, database, "--wait").returncode == 0


def test_a_release_rolled_back_takes_the_newer_schema(root: Path, database: Path) -> None:
    assert run(root, database).returncode == 0
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'of-a-later-release'")
    connection.close()
    assert run(root, database, "--wait").returncode == 0
