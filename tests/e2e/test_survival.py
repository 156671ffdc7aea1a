"""What is lost when a process is killed under load: what was in flight in a killed router, and nothing else."""

import os
import signal
import time
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from e2e_platform import Load, Note, Outcome, Platform, until
from sklearn.pipeline import Pipeline

from moorage_sdk.client import Client
from moorage_sdk.errors import MoorageApiError

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def load(platform: Platform, client: Client, name: str, classifier: Pipeline, pictures: np.ndarray) -> Iterator[Load]:
    """20 requests a second to a model on one replica."""
    client.deploy(client.push(classifier, name=name, example=pictures[:8]), gpu=0.5)
    with load_on(platform, client, name, pictures) as load:
        yield load


def load_on(platform: Platform, client: Client, name: str, pictures: np.ndarray) -> Load:
    spec = client.registry.version(name, 1).signature.inputs[0]
    tensor = {"name": spec.name, "datatype": spec.datatype, "shape": [1, 64], "data": pictures[0].tolist()}
    url = f"{platform.info['router']}/v2/models/{name}/infer"
    body = httpx.Request("POST", url, json={"inputs": [tensor]}).content
    return Load(url, platform.info["api_key"], body)


def answers_go_on(load: Load, count: int = 40) -> None:
    """Wait for further answers to requests begun from now on."""
    now = time.monotonic()
    until(lambda: sum(o.is_ok and o.begun > now for o in list(load.outcomes)) >= count, 60, "further answers")


@pytest.mark.parametrize("victim", ["registry", "scheduler", "nats", "redis"])
def test_a_killed_control_process_costs_no_request_and_comes_back(
    *, platform: Platform, client: Client, load: Load, name: str, victim: str, note: Note
) -> None:
    answers_go_on(load, 10)
    platform.kill(victim)
    answers_go_on(load)
    note(f"{victim}_back_s", round(until(lambda: works_again(client, name), 60, f"a working {victim}"), 2))
    answers_go_on(load)
    assert load.failed() == []


def works_again(client: Client, name: str) -> bool:
    """Whether a change made at the registry reaches the router, through the bus and the scheduler's report."""
    try:
        key = client.registry.create_key([f"infer:{name}"])["key"]
    except MoorageApiError:
        return False
    with Client("", client.endpoint(name).url.split("/v2/")[0], key) as other:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            try:
                other.infer(name, np.zeros((1, 64)))
            except MoorageApiError:
                time.sleep(0.1)
            else:
                return True
    return False


def test_a_killed_router_loses_only_what_was_in_flight_in_it(
    platform: Platform, client: Client, load: Load, name: str, note: Note
) -> None:
    answers_go_on(load, 10)
    killed_at = time.monotonic()
    platform.kill("router-0")
    answers_go_on(load)
    lost = load.failed()
    slowest = max(o.ended - o.begun for o in load.outcomes if o.is_ok and o.begun >= killed_at)
    note("router_lost", len(lost))
    note("router_back_s", round(slowest, 2))
    assert all(was_in_flight(outcome, killed_at) for outcome in lost), lost
    until(lambda: works_again(client, name), 30, "a working router")


def was_in_flight(outcome: Outcome, killed_at: float) -> bool:
    """Begun before the kill, or in the moment before the kernel took the process's connections away."""
    return outcome.begun < killed_at + 0.1 and outcome.ended > killed_at


def test_usage_counts_every_answer_over_the_kills(platform: Platform, client: Client, load: Load, name: str) -> None:
    for victim in ("nats", "registry"):
        platform.kill(victim)
        answers_go_on(load)
    load.__exit__(None, None, None)
    answered = sum(outcome.is_ok for outcome in load.outcomes)

    def billed() -> int:
        try:
            rows = client.usage(by="model")["rows"]
        except MoorageApiError:
            return 0
        return sum(row["requests"] for row in rows if row["model"] == name)

    until(lambda: billed() >= answered, 60, "the usage of all answers")
    assert billed() == answered


def test_one_of_two_killed_hosts_costs_no_request(
    platform: Platform, client: Client, name: str, classifier: Pipeline, pictures: np.ndarray
) -> None:
    client.deploy(client.push(classifier, name=name, example=pictures[:8]), gpu=0.5, min=2, max=2)
    hosts = hosts_of(platform, client, name, 2)
    with load_on(platform, client, name, pictures) as load:
        answers_go_on(load, 10)
        os.kill(hosts[0], signal.SIGKILL)
        answers_go_on(load)
        until(lambda: ready(client, name) == 2, 90, "the second host again")
        answers_go_on(load)
    assert load.failed() == []


def test_the_only_killed_host_costs_no_request_and_comes_back_on_the_same_gpu(
    platform: Platform, client: Client, load: Load, name: str, note: Note
) -> None:
    (host,) = hosts_of(platform, client, name, 1)
    before = client.registry.status(name).replicas[0]
    answers_go_on(load, 10)
    killed_at = time.monotonic()
    os.kill(host, signal.SIGKILL)
    until(lambda: hosts_of(platform, client, name, 1) != [host], 60, "another process")
    answers_go_on(load)
    waited = max(o.ended - o.begun for o in load.outcomes if o.is_ok and o.ended > killed_at)
    note("only_host_back_s", round(waited, 2))
    assert load.failed() == []
    after = client.registry.status(name).replicas[0]
    assert (after.host_id, after.devices) == (before.host_id, before.devices)


def ready(client: Client, name: str) -> int:
    return client.registry.status(name).ready.get(1, 0)


def hosts_of(platform: Platform, client: Client, name: str, count: int) -> list[int]:
    """Process ids of the model's hosts once there are `count` that are ready."""
    until(lambda: ready(client, name) == count, 90, f"{count} ready hosts")
    return [platform.hosts()[replica.host_id] for replica in client.registry.status(name).replicas]
