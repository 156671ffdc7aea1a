"""The feature join before a feature-proxy that speaks contracts/features.py."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from router_harness import PEPPER, Desired, FakeHost, RunningRouter, Seen, serving

from moorage_common.contracts.routes import FeatureJoin
from moorage_common.contracts.tensors import Signature, TensorSpec
from moorage_common.secrets import internal_token
from moorage_router.settings import RouterSettings

FEATURES = ["stats__mean", "stats__peak"]
SIGNATURE = Signature(
    inputs=[TensorSpec(name="mean", datatype="FP32", shape=[-1]), TensorSpec(name="peak", datatype="FP32", shape=[-1])],
    outputs=[TensorSpec(name="y", datatype="FP32", shape=[-1])],
)
ASKED = json.dumps({"inputs": [{"name": "sensor", "shape": [2], "datatype": "INT64", "data": [7, 8]}]}).encode()


async def online(_host: FakeHost, seen: Seen, writer: asyncio.StreamWriter) -> bool:
    """Sensor n has mean n and peak 10 n; 99 is unknown."""
    asked = json.loads(seen.body)
    sensors = asked["entities"]["sensor_id"]
    columns = [
        {
            "name": name, "datatype": "FP32", "values": [None if s == 99 else s * scale for s in sensors],
            "statuses": ["missing" if s == 99 else "present" for s in sensors],
            "event_timestamps": [1.0] * len(sensors),
        }
        for name, scale in zip(FEATURES, (1, 10), strict=True)
    ]  # fmt: skip
    body = json.dumps({"service": asked["service"], "fingerprint": "f", "rows": len(sensors), "columns": columns})
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body.encode()))
    return True


@pytest.fixture
async def proxy() -> AsyncIterator[FakeHost]:
    one = FakeHost("feature-proxy", behaviour=online)
    await one.start()
    yield one
    await one.kill()


@pytest.fixture
async def joining(settings: RouterSettings, desired: Desired, proxy: FakeHost) -> AsyncIterator[RunningRouter]:
    settings.feature_proxy_url = f"http://127.0.0.1:{proxy.port}"
    async with serving(settings) as router:
        yield router


async def deployed(router: RunningRouter, desired: Desired, host: FakeHost, **join: object) -> object:
    key = await desired.key()
    features = FeatureJoin.model_validate({"entities": {"sensor_id": "sensor"}, "deadline_ms": 2000, **join})
    fields = {"signature": SIGNATURE, "feature_service": "sensors", "features": FEATURES}
    await desired.route({1: 10_000}, features=features, version_fields=fields)
    await desired.host(host, 1)
    await router.knows(key, 1)
    return key


async def test_the_host_gets_the_features_of_the_callers_entities(
    joining: RunningRouter, desired: Desired, host: FakeHost, proxy: FakeHost
) -> None:
    key = await deployed(joining, desired, host)
    assert (await joining.infer(key, content=ASKED)).status_code == 200
    assert json.loads(host.seen[-1].body)["inputs"] == [
        {"name": "mean", "datatype": "FP32", "shape": [2], "data": [7, 8]},
        {"name": "peak", "datatype": "FP32", "shape": [2], "data": [70, 80]},
    ]
    asked = proxy.seen[-1]
    assert asked.path == "/v1/features/online"
    assert asked.headers["authorization"] == f"Bearer {internal_token(PEPPER)}"
    assert asked.headers["moorage-tenant"] == "demo"
    assert json.loads(asked.body) == {"service": "sensors", "entities": {"sensor_id": [7, 8]}}


async def test_a_missing_feature_is_named_or_defaulted(
    joining: RunningRouter, desired: Desired, host: FakeHost
) -> None:
    unknown = ASKED.replace(b"8", b"99")
    key = await deployed(joining, desired, host)
    refused = await joining.infer(key, content=unknown)
    assert (refused.status_code, refused.headers["moorage-error"]) == (422, "features_missing")
    assert "stats__mean of sensor_id=99" in refused.json()["error"]
    key = await deployed(joining, desired, host, on_miss="default", default=-1.0)
    while (answer := await joining.infer(key, content=unknown)).status_code == 422:  # noqa: ASYNC110 - polls
        await asyncio.sleep(0.02)
    assert answer.status_code == 200
    assert json.loads(host.seen[-1].body)["inputs"][1]["data"] == [70, -1.0]


async def test_without_the_proxy_the_policy_decides(
    joining: RunningRouter, desired: Desired, host: FakeHost, proxy: FakeHost
) -> None:
    key = await deployed(joining, desired, host)
    await proxy.kill()
    refused = await joining.infer(key, content=ASKED)
    assert (refused.status_code, refused.headers["moorage-error"]) == (503, "features_unavailable")
    assert int(refused.headers["retry-after"]) >= 1
    key = await deployed(joining, desired, host, on_miss="default")
    while (answer := await joining.infer(key, content=ASKED)).status_code == 503:  # noqa: ASYNC110 - polls
        await asyncio.sleep(0.02)
    assert answer.status_code == 200


async def test_a_proxy_that_stalls_is_given_up_at_the_joins_deadline(
    joining: RunningRouter, desired: Desired, host: FakeHost, proxy: FakeHost
) -> None:
    async def stall(_host: FakeHost, _seen: Seen, _writer: asyncio.StreamWriter) -> bool:
        await asyncio.sleep(3600)
        return True

    key = await deployed(joining, desired, host, deadline_ms=200)
    proxy.behaviour = stall
    started = asyncio.get_running_loop().time()
    assert (await joining.infer(key, content=ASKED)).status_code == 503
    assert asyncio.get_running_loop().time() - started < 3


async def test_entities_must_be_there_and_in_json(joining: RunningRouter, desired: Desired, host: FakeHost) -> None:
    key = await deployed(joining, desired, host)
    absent = await joining.infer(key, content=b'{"inputs": []}')
    assert (absent.status_code, absent.headers["moorage-error"]) == (400, "entity_missing")
    assert "sensor" in absent.json()["error"]
    binary = await joining.infer(key, content=ASKED, headers={"inference-header-content-length": str(len(ASKED))})
    assert (binary.status_code, binary.headers["moorage-error"]) == (400, "features_need_json")
