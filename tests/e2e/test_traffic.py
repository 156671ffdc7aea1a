"""Who gets which version, over the whole platform: by a header, by ring, and copies beside."""

from collections import Counter
from collections.abc import Callable

import httpx
import numpy as np
import pytest
from e2e_platform import Platform, until
from sklearn.base import clone
from sklearn.pipeline import Pipeline

from moorage_sdk.client import Client
from moorage_sdk.sharing import TrafficChange

Ask = Callable[[str], str]


@pytest.fixture
def answered() -> Counter[str]:
    """Answers by version."""
    return Counter()


@pytest.fixture
def asks(  # noqa: PLR0917 - fixtures
    platform: Platform, client: Client, name: str, classifier: Pipeline, pictures: np.ndarray, answered: Counter[str]
) -> Ask:
    """Asks for a user of a model in two versions that mostly agree; the version that answered."""
    other = clone(classifier).set_params(logisticregression__C=1.0)
    other.fit(pictures, classifier.predict(pictures))
    for model in (classifier, other):
        client.deploy(client.push(model, name=name, example=pictures[:8]), gpu=0.25)
    spec = client.registry.version(name, 1).signature.inputs[0]
    url = f"{platform.info['router']}/v2/models/{name}/infer"
    places = iter(range(10**6))

    def ask(user: str) -> str:
        picture = pictures[next(places) % len(pictures)].tolist()
        body = {"name": spec.name, "datatype": spec.datatype, "shape": [1, 64], "data": picture}
        headers = {"authorization": f"Bearer {platform.info['api_key']}", "x-user": user}
        answer = httpx.post(url, json={"inputs": [body]}, headers=headers, timeout=30, trust_env=False)
        assert answer.status_code == 200, answer.text
        answered[version := str(answer.json()["model_version"])] += 1
        return version

    return ask


@pytest.mark.timeout(300)
def test_a_user_stays_at_a_version_a_ring_gets_its_own_and_copies_are_compared_and_not_billed(
    client: Client, name: str, asks: Ask, answered: Counter[str]
) -> None:
    ring = f"early-{name}"
    client.registry.put_ring(ring, header="x-user", values=["ann"])
    client.set_traffic(name, {1: 50, 2: 50})
    client.change_traffic(name, TrafficChange(sticky="header:x-user"))
    until(lambda: len({asks("bob") for _ in range(12)}) == 1, 20, "the header to decide")
    users = {user: {asks(user) for _ in range(3)} for user in map(str, range(24))}
    assert all(len(versions) == 1 for versions in users.values()), users
    assert {version for versions in users.values() for version in versions} == {"1", "2"}
    client.change_traffic(name, TrafficChange(weights={1: 100}, sticky="none", rings=[(ring, 2, 100)]))
    until(lambda: (asks("ann"), asks("bob")) == ("2", "1"), 20, "the ring")
    client.registry.put_ring(ring, header="x-user", values=["bob"])
    until(lambda: (asks("ann"), asks("bob")) == ("1", "2"), 20, "the changed ring")

    def billed() -> int:
        rows = client.usage(by="model,version")["rows"]
        return sum(row["requests"] for row in rows if row["model"] == name)

    client.change_traffic(name, TrafficChange(rings=[], shadows=[(2, 100)]))
    until(lambda: asks("bob") == "1", 20, "the end of the ring")
    until(lambda: bool(asks("bob")) and client.registry.shadows(name)[0].agreed >= 20, 60, "the comparison")
    shadow = client.registry.shadows(name)[0]
    assert shadow.agreed > shadow.disagreed
    assert shadow.outcomes.get("ok", 0) >= shadow.agreed
    assert set(shadow.outcomes) == {"ok"}
    assert shadow.model_ms is not None
    for _ in range(20):
        assert asks("ann") == "1"
    until(lambda: client.registry.shadows(name)[0].agreed > shadow.agreed, 60, "more copies")
    until(lambda: billed() == answered.total(), 60, "the bill of the answers, and of no copy")
