"""All state is in one directory: what ends there comes back from there."""

import signal
import stat

import numpy as np
import psutil
from e2e_platform import Platform, until
from sklearn.base import clone
from sklearn.pipeline import Pipeline

from moorage_sdk.client import Client
from moorage_sdk.errors import MoorageApiError


def test_tenants_models_and_traffic_come_back(
    platform: Platform, classifier: Pipeline, pictures: np.ndarray, name: str
) -> None:
    other = clone(classifier).set_params(logisticregression__C=2.0).fit(pictures, classifier.predict(pictures))
    with platform.client() as client:
        for model in (classifier, other):
            client.deploy(client.push(model, name=name, example=pictures[:8]), gpu=0.25)
        client.set_traffic(name, {1: 75, 2: 25})
        before = client.infer(name, pictures[:50], version=1)["predict"].tolist()
        arms = client.registry.traffic(name).arms
    key = platform.info["api_key"]
    children = [platform.pid(child) for child in ("registry", "router-0", "scheduler", "ray", "nats", "redis")]
    ended_in_s = platform.end()
    assert ended_in_s < 20
    assert not any(alive(pid) for pid in children), "a process was left behind"
    assert not (platform.state / "local.json").exists()

    platform.start()
    assert platform.info["api_key"] == key
    with platform.client() as client:
        assert client.registry.traffic(name).arms == arms
        until(lambda: answers(client, name, pictures) == before, 60, "the same answers as before")
        assert [version.version for version in client.registry.versions(name)] == [1, 2]
        assert all(version.state == "ready" for version in client.registry.versions(name))


def test_a_killed_launcher_takes_everything_with_it_and_the_next_one_starts(platform: Platform) -> None:
    children = [platform.pid(child) for child in ("registry", "router-0", "scheduler", "ray", "nats", "redis")]
    platform.end(signal.SIGKILL)
    until(lambda: not any(alive(pid) for pid in children), 10, "the end of the killed launcher's children")
    platform.start()
    with platform.client() as client:
        assert client.registry.whoami()["tenant"] == "demo"


def test_a_second_launcher_on_the_same_directory_is_refused_with_the_first_ones_process(platform: Platform) -> None:
    second = Platform(platform.state)
    second.info = platform.info
    answered = second.refused()
    assert "already runs" in answered
    assert str(platform.launcher_pid) in answered


def test_secrets_are_for_their_owner_alone(platform: Platform) -> None:
    for file in ("local.json", "secrets.json"):
        assert stat.S_IMODE((platform.state / file).stat().st_mode) == 0o600
    logged = "".join(path.read_text(errors="replace") for path in (platform.state / "logs").glob("*.log"))
    assert platform.info["api_key"] not in logged
    assert platform.info["admin_key"] not in logged


def answers(client: Client, name: str, pictures: np.ndarray) -> list[float] | None:
    try:
        found: list[float] = client.infer(name, pictures[:50], version=1)["predict"].tolist()
    except MoorageApiError:
        return None
    return found


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
