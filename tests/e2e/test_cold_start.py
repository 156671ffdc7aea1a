"""A deployment that may have no replica: asleep, woken by a request that waits, asleep again."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from e2e_platform import Note, Platform, until
from sklearn.pipeline import Pipeline

from moorage_sdk.client import Client

pytestmark = pytest.mark.timeout(300)

CALLERS = 20


def test_a_sleeping_version_is_woken_by_requests_that_wait_and_sleeps_again_when_nobody_asks(
    *, platform: Platform, client: Client, name: str, classifier: Pipeline, pictures: np.ndarray, note: Note
) -> None:
    client.push(classifier, name=name, example=pictures[:8])
    until(lambda: client.registry.version(name, 1).state == "ready", 90, "a validated version")
    client.deploy(name, version=1, gpu=0.25, min=0, max=1, idle="10s")
    assert client.registry.status(name).replicas == []

    first = [ask_once(platform, client, name, pictures)]
    note("cold_start_s", round(first[0].elapsed.total_seconds(), 2))
    until(lambda: client.registry.status(name).replicas == [], 60, "sleep after the idle time")

    with ThreadPoolExecutor(CALLERS) as callers:
        asked = [callers.submit(ask_once, platform, client, name, pictures) for _ in range(CALLERS)]
        until(lambda: len(client.registry.status(name).replicas) == 1, 60, "a replica")
        answers = [one.result() for one in asked]
    note("woken_again_s", round(max(answer.elapsed.total_seconds() for answer in answers), 2))
    assert [answer.status_code for answer in first + answers] == [200] * (1 + CALLERS)
    until(lambda: client.registry.status(name).replicas == [], 60, "sleep once more")


def ask_once(platform: Platform, client: Client, name: str, pictures: np.ndarray) -> httpx.Response:
    """One request, never sent again."""
    spec = client.registry.version(name, 1).signature.inputs[0]
    tensor = {"name": spec.name, "datatype": spec.datatype, "shape": [1, 64], "data": pictures[0].tolist()}
    url = f"{platform.info['router']}/v2/models/{name}/infer"
    headers = {"authorization": f"Bearer {platform.info['api_key']}"}
    return httpx.post(url, json={"inputs": [tensor]}, headers=headers, timeout=60, trust_env=False)
