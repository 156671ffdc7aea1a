"""Traffic is split as declared, and every request is counted where it went."""

import asyncio
import collections
import math

import httpx
import numpy as np
import pytest
from e2e_platform import Platform, until
from sklearn.base import clone
from sklearn.pipeline import Pipeline

from moorage_sdk.client import Client

REQUESTS = 10_000


async def ask(
    url: str, headers: dict[str, str], body: bytes, count: int, at_once: int = 32
) -> collections.Counter[str]:
    """Versions that answered `count` requests."""
    answered: collections.Counter[str] = collections.Counter()
    left = iter(range(count))

    async def worker(http: httpx.AsyncClient) -> None:
        for _ in left:
            answer = await http.post(url, content=body, headers=headers)
            answered[answer.json()["model_version"] if answer.status_code == 200 else answer.text] += 1

    async with httpx.AsyncClient(timeout=30, trust_env=False) as http, asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(worker(http))
    return answered


@pytest.mark.timeout(300)
async def test_ninety_to_ten_over_ten_thousand_requests(
    platform: Platform, client: Client, name: str, classifier: Pipeline, pictures: np.ndarray
) -> None:
    other = clone(classifier).set_params(logisticregression__C=1.0)
    other.fit(pictures, classifier.predict(pictures))
    for model in (classifier, other):
        client.deploy(client.push(model, name=name, example=pictures[:8]), gpu=0.25)
    client.set_traffic(name, {1: 90, 2: 10})
    spec = client.registry.version(name, 1).signature.inputs[0]
    body = {"name": spec.name, "datatype": spec.datatype, "shape": [1, 64], "data": pictures[0].tolist()}
    url = f"{platform.info['router']}/v2/models/{name}/infer"
    headers = {"authorization": f"Bearer {platform.info['api_key']}", "content-type": "application/json"}
    payload = httpx.Request("POST", url, json={"inputs": [body]}).content
    before = await ask(url, headers, payload, 1)
    while "2" not in before:
        before += await ask(url, headers, payload, 1)
    answered = await ask(url, headers, payload, REQUESTS)
    assert set(answered) == {"1", "2"}, answered
    sigma = math.sqrt(REQUESTS * 0.9 * 0.1)
    assert abs(answered["1"] - 0.9 * REQUESTS) < 3 * sigma, answered
    every = before + answered

    def billed() -> dict[str, int]:
        rows = client.usage(by="model,version")["rows"]
        return {str(row["version"]): row["requests"] for row in rows if row["model"] == name}

    until(lambda: sum(billed().values()) >= every.total(), 60, "the usage of all requests")
    assert billed() == dict(every)
    assert counted(platform, name) == dict(every)


def counted(platform: Platform, name: str) -> dict[str, int]:
    """Requests by version in the tenant's own metrics."""
    headers = {"authorization": f"Bearer {platform.info['api_key']}"}
    text = httpx.get(f"{platform.info['registry']}/v1/metrics", headers=headers).text
    found: dict[str, int] = collections.defaultdict(int)
    for line in text.splitlines():
        if line.startswith("moorage_usage_requests_total{") and f'model="{name}"' in line:
            version = line.split('version="')[1].split('"')[0]
            found[version] += int(float(line.rsplit(" ", 1)[1]))
    return dict(found)
