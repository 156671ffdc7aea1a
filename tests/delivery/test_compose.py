"""docker-compose.yml: `docker compose config` takes it, secrets are required, and its stores' configurations work."""

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import nats
import pytest
import yaml

from moorage_common import api_keys, embedded
from moorage_common.testing.servers import free_port, wait_until

Compose = dict[str, Any]


@pytest.fixture(scope="session")
def environment(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What make_env.py writes."""
    path = tmp_path_factory.mktemp("env") / ".env"
    subprocess.run([sys.executable, root / "deploy/compose/make_env.py", path], check=True, capture_output=True)
    assert path.stat().st_mode & 0o777 == 0o600
    return dict(line.split("=", 1) for line in path.read_text().splitlines())


def parse(
    compose: list[str], root: Path, environment: dict[str, str], *options: str
) -> subprocess.CompletedProcess[str]:
    place = ["--project-directory", str(root), "--env-file", "/dev/null"]
    command = [*compose, *place, *options, "config", "--format", "json"]
    variables = {"PATH": os.environ["PATH"], "HOME": str(root), **environment}
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="session")
def project(compose: list[str], root: Path, environment: dict[str, str]) -> Compose:
    done = parse(compose, root, environment)
    assert done.returncode == 0, done.stderr
    found: Compose = json.loads(done.stdout)
    return found


@cache
def _raw(path: Path) -> Compose:
    found: Compose = yaml.safe_load(path.read_text())
    return found


def dockerfile_targets(root: Path) -> set[str]:
    return set(re.findall(r"^FROM \S+ AS (\S+)$", (root / "Dockerfile").read_text(), re.MULTILINE))


def test_a_missing_secret_is_named_with_the_way_out(
    compose: list[str], root: Path, environment: dict[str, str]
) -> None:
    for name in environment:
        rest = {other: value for other, value in environment.items() if other != name}
        done = parse(compose, root, rest)
        assert done.returncode != 0
        assert f"required variable {name} is missing a value: run python3 deploy/compose/make_env.py" in done.stderr


def test_everything_published_listens_on_loopback(project: Compose) -> None:
    published = [port for service in project["services"].values() for port in service.get("ports", [])]
    assert {port["host_ip"] for port in published} == {"127.0.0.1"}


def test_every_container_restarts_is_checked_and_gains_no_privileges(project: Compose, root: Path) -> None:
    checked_by_image = dockerfile_targets(root)
    for name, service in project["services"].items():
        assert service["restart"] == "unless-stopped", name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "healthcheck" in service or service["build"]["target"] in checked_by_image, name
        if "build" in service:
            assert service["read_only"] is True, name
            assert service["cap_drop"] == ["ALL"], name


def test_every_image_is_a_target_of_the_dockerfile(project: Compose, root: Path) -> None:
    for name, service in project["services"].items():
        if "build" in service:
            assert service["build"]["target"] in dockerfile_targets(root)
            assert service["image"] == f"moorage/{service['build']['target']}:0.1.0", name


def test_a_service_gets_every_setting_it_requires_and_none_it_does_not_know(
    project: Compose, root: Path, service: str, settings_of: Any
) -> None:
    given = {name for name in project["services"][service]["environment"] if name.startswith("MOORAGE_")}
    stage = (root / "Dockerfile").read_text()
    by_image = set(re.findall(r"(MOORAGE_[A-Z_]+)=", stage))
    assert given <= settings_of.known
    assert settings_of.required <= given | by_image


def test_a_second_scheduler_stands_by_on_ports_of_its_own_where_it_is_asked_for(
    compose: list[str], root: Path, environment: dict[str, str], project: Compose
) -> None:
    assert "scheduler-standby" not in project["services"]
    both = json.loads(parse(compose, root, environment, "--profile", "standby").stdout)["services"]
    one, other = (both[name]["environment"] for name in ("scheduler", "scheduler-standby"))
    assert {name for name in one if one[name] != other[name]} == {"MOORAGE_PORT", "MOORAGE_OPS_PORT"}
    assert one.keys() == other.keys()
    assert both["scheduler-standby"]["restart"] == "unless-stopped"


def test_prometheus_scrapes_every_service(root: Path, project: Compose) -> None:
    jobs = _raw(root / "deploy/compose/prometheus.yml")["scrape_configs"]
    targets = {job["job_name"]: job["static_configs"][0]["targets"][0] for job in jobs}
    assert targets.keys() == {"registry", "router", "feature-proxy", "scheduler"}
    for name, target in targets.items():
        host, port = target.split(":")
        assert host in project["services"]
        ops_port = project["services"][name]["environment"].get("MOORAGE_OPS_PORT", "9090")
        assert port == ops_port, name


def test_secrets_are_fresh_and_the_key_is_an_api_key(environment: dict[str, str]) -> None:
    assert len(set(environment.values())) == len(environment)
    assert api_keys.parse(environment["MOORAGE_ADMIN_KEY"]) is not None


def test_existing_secrets_are_never_overwritten(root: Path, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MOORAGE_PEPPER=mine\n")
    command = [sys.executable, str(root / "deploy/compose/make_env.py"), str(tmp_path / ".env")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert (tmp_path / ".env").read_text() == "MOORAGE_PEPPER=mine\n"


def answers_to(port: int, text: str) -> bytes:
    """What a server says to `text` until it closes the connection; empty while nothing listens."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(text.encode())
            with connection.makefile("rb") as answers:
                return answers.read()
    except OSError:
        return b""


async def test_nats_takes_the_generated_password_and_refuses_a_stranger(
    root: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    port = free_port()
    text = (root / "deploy/compose/nats.conf").read_text()
    text = text.replace("0.0.0.0:4222", f"127.0.0.1:{port}").replace("127.0.0.1:8222", f"127.0.0.1:{free_port()}")
    (tmp_path / "nats.conf").write_text(text.replace("store_dir: /data", f"store_dir: {tmp_path}/data"))
    password = environment["MOORAGE_NATS_PASSWORD"]
    variables = {**os.environ, "NATS_PASSWORD": password}
    server = await asyncio.create_subprocess_exec(
        embedded.nats_program(), "--config", str(tmp_path / "nats.conf"), env=variables, stderr=subprocess.DEVNULL
    )
    try:
        url = f"nats://moorage:{password}@127.0.0.1:{port}"
        client = await nats.connect(url, max_reconnect_attempts=50, reconnect_time_wait=0.1)
        await client.jetstream().account_info()
        await client.close()
        refused = await asyncio.to_thread(answers_to, port, "CONNECT {}\r\nPING\r\n")
        assert b"-ERR 'Authorization Violation'" in refused
    finally:
        server.terminate()
        await server.wait()


def test_redis_takes_the_generated_password_and_refuses_a_stranger(
    root: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    port = free_port()
    password = environment["MOORAGE_REDIS_LIMITS_PASSWORD"]
    (tmp_path / "redis-server").symlink_to(embedded.redis_program())
    command = ["sh", str(root / "deploy/compose/redis.sh"), "--save", "", "--appendonly", "no", "--port", str(port)]
    variables = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "REDISCLI_AUTH": password}
    with subprocess.Popen(command, env=variables, cwd=tmp_path, stdout=subprocess.DEVNULL) as server:
        try:
            wait_until(lambda: b"+PONG" in answers_to(port, f"AUTH {password}\r\nPING\r\nQUIT\r\n"), what="Redis")
            assert answers_to(port, "PING\r\nQUIT\r\n").startswith(b"-NOAUTH")
            policy = answers_to(port, f"AUTH {password}\r\nCONFIG GET maxmemory-policy\r\nQUIT\r\n")
            assert b"noeviction" in policy
        finally:
            server.terminate()
