"""The feature join before a feature-proxy that speaks contracts/features.py."""

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from router_harness import PEPPER, Desired, FakeHost, RunningRouter, Seen, serving

from moorage_common.contracts.features import ROWS_MAX
from moorage_common.contracts.routes import FeatureJoin
from moorage_common.contracts.tensors import Signature, TensorSpec
from moorage_common.secrets import internal_token
from moorage_router.features.offload import INLINE_BYTES
from moorage_router.settings import RouterSettings
from moorage_runtime import v2

FEATURES = ["stats__mean", "stats__peak"]
SIGNATURE = Signature(
    inputs=[TensorSpec(name="mean", datatype="FP32", shape=[-1]), TensorSpec(name="peak", datatype="FP32", shape=[-1])],
    outputs=[TensorSpec(name="y", datatype="FP32", shape=[-1])],
)
ASKED = json.dumps({"inputs": [{"name": "sensor", "shape": [2], "datatype": "INT64", "data": [7, 8]}]}).encode()


async def online(_host: FakeHost, seen: Seen, writer: asyncio.StreamWriter) -> bool:
    """Sensor n has mean n and peak 10 n (text counts by its length); 99 is unknown."""
    asked = json.loads(seen.body)
    sensors = asked["entities"]["sensor_id"]
    numbers = [len(s) if isinstance(s, str) else s for s in sensors]
    columns = [
        {
            "name": name, "datatype": "FP32", "values": [None if n == 99 else n * scale for n in numbers],
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


async def deployed(
    router: RunningRouter, desired: Desired, host: FakeHost, signature: Signature = SIGNATURE, **join: object
) -> Any:
    key = await desired.key()
    features = FeatureJoin.model_validate({"entities": {"sensor_id": "sensor"}, "deadline_ms": 2000, **join})
    fields = {"signature": signature, "feature_service": "sensors", "features": FEATURES}
    await desired.route({1: 10_000}, features=features, version_fields=fields)
    await desired.host(host, 1)
    await router.knows(key, 1)
    return key


def got(host: FakeHost) -> v2.InferRequest:
    """What the host was last asked, by the codec that hosts use."""
    seen = host.seen[-1]
    return v2.decode_request(seen.body, seen.headers.get(v2.HEADER_LENGTH))


def values(host: FakeHost) -> dict[str, list[Any]]:
    return {name: array.tolist() for name, array in got(host).inputs.items()}


async def test_the_host_gets_the_features_of_the_callers_entities_as_binary_tensors(
    joining: RunningRouter, desired: Desired, host: FakeHost, proxy: FakeHost
) -> None:
    key = await deployed(joining, desired, host)
    assert (await joining.infer(key, content=ASKED)).status_code == 200
    assert host.seen[-1].headers["content-type"] == "application/octet-stream"
    assert values(host) == {"mean": [7, 8], "peak": [70, 80]}
    assert got(host).datatypes == {"mean": "FP32", "peak": "FP32"}
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
    assert values(host)["peak"] == [70, -1.0]


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


async def test_entities_must_be_there(joining: RunningRouter, desired: Desired, host: FakeHost) -> None:
    key = await deployed(joining, desired, host)
    absent = await joining.infer(key, content=ASKED.replace(b'"sensor"', b'"censor"'))
    assert (absent.status_code, absent.headers["moorage-error"]) == (400, "entity_missing")
    assert "sensor" in absent.json()["error"]
    for body in (b"", b"[]", b'{"inputs": []}', b'{"inputs": [{"data": [1]}]}', ASKED.replace(b"[2]", b"[3]")):
        refused = await joining.infer(key, content=body)
        assert (refused.status_code, refused.headers["moorage-error"]) == (400, "bad_request")


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(
    ("sensors", "asked"),
    [
        (np.array([7, 2**53 + 1]), [7, 2**53 + 1]),
        (np.array([[7], [8]], np.uint16), [7, 8]),
        (np.array([7.0, 8.0], np.float32), [7, 8]),
        (np.array(["ab", "caf\u00e9"], object), ["ab", "caf\u00e9"]),
    ],
)
async def test_entities_come_in_json_and_binary_in_every_datatype_that_keys_can_be(
    joining: RunningRouter, desired: Desired, host: FakeHost, proxy: FakeHost,
    *, sensors: v2.Array, asked: list[object], binary: bool,
) -> None:  # fmt: skip
    key = await deployed(joining, desired, host)
    sent = v2.encode_request({"sensor": sensors}, binary=binary)
    assert (await joining.infer(key, content=sent.body, headers=sent.headers)).status_code == 200
    assert json.loads(proxy.seen[-1].body)["entities"] == {"sensor_id": asked}
    assert len(values(host)["mean"]) == len(asked)


async def test_integers_beyond_2_to_53_reach_the_host_exactly(
    joining: RunningRouter, desired: Desired, host: FakeHost
) -> None:
    wide = [TensorSpec(name=name, datatype="INT64", shape=[-1]) for name in ("mean", "peak", "serial")]
    key = await deployed(joining, desired, host, Signature(inputs=wide, outputs=SIGNATURE.outputs))
    odd = 2**53 + 1
    sent = v2.encode_request({"sensor": np.array([odd]), "serial": np.array([odd + 2])}, binary=False)
    assert (await joining.infer(key, content=sent.body)).status_code == 200
    assert values(host) == {"serial": [odd + 2], "mean": [odd], "peak": [10 * odd]}


async def test_a_feature_that_does_not_fit_the_models_input_is_422(
    joining: RunningRouter, desired: Desired, host: FakeHost
) -> None:
    narrow = [TensorSpec(name=name, datatype="UINT8", shape=[-1]) for name in ("mean", "peak")]
    key = await deployed(joining, desired, host, Signature(inputs=narrow, outputs=SIGNATURE.outputs))
    refused = await joining.infer(key, content=ASKED.replace(b"8", b"80"))
    assert (refused.status_code, refused.headers["moorage-error"]) == (422, "features_cast")
    assert "stats__peak" in refused.json()["error"]


async def test_mixed_bodies_keep_what_the_caller_wishes_of_the_answer(
    joining: RunningRouter, desired: Desired, host: FakeHost
) -> None:
    key = await deployed(joining, desired, host)
    noise = np.array([np.nan, 1.5, -0.0], "<f4")
    head = json.dumps(
        {
            "id": "call 1",
            "parameters": {"binary_data_output": True, "threshold": 0.5},
            "outputs": [{"name": "y", "parameters": {"binary_data": False}}, {"name": "z"}],
            "inputs": [
                {"name": "noise", "shape": [3], "datatype": "FP32", "parameters": {"binary_data_size": 12}},
                {"name": "sensor", "shape": [1], "datatype": "INT64", "data": [7]},
            ],
        }
    ).encode()
    headers = {
        "content-type": "application/octet-stream", v2.HEADER_LENGTH: str(len(head)), "accept-encoding": "gzip",
    }  # fmt: skip
    answer = await joining.infer(key, content=head + noise.tobytes(), headers=headers)
    assert answer.status_code == 200
    request = got(host)
    assert (request.id, request.outputs, request.binary) == ("call 1", ("y", "z"), {"y": False})
    assert request.parameters == {"binary_data_output": True, "threshold": 0.5}
    assert request.inputs["noise"].tobytes() == noise.tobytes()
    assert request.inputs["mean"].tolist() == [7]
    assert host.seen[-1].headers["accept-encoding"] == "gzip"


async def test_a_caller_that_wishes_nothing_is_answered_in_json(
    joining: RunningRouter, desired: Desired, host: FakeHost
) -> None:
    key = await deployed(joining, desired, host)
    assert (await joining.infer(key, content=ASKED)).status_code == 200
    request = got(host)
    assert (request.id, request.outputs, request.parameters, request.binary) == (None, None, {}, {})
    assert not request.wants_binary("y")


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_compressed_bodies_are_unpacked_for_the_join_and_go_on_unpacked(
    joining: RunningRouter, desired: Desired, host: FakeHost, encoding: str, pack: Any
) -> None:
    key = await deployed(joining, desired, host)
    sent = v2.encode_request({"sensor": np.array([7, 8])}, binary=True)
    packed = {**sent.headers, "content-encoding": encoding}
    assert (await joining.infer(key, content=pack(sent.body), headers=packed)).status_code == 200
    assert values(host) == {"mean": [7, 8], "peak": [70, 80]}
    assert "content-encoding" not in host.seen[-1].headers
    for body, wrong in ((b"nope", encoding), (pack(sent.body)[:-4], encoding), (sent.body, "br")):
        refused = await joining.infer(key, content=body, headers={**packed, "content-encoding": wrong})
        assert (refused.status_code, refused.headers["moorage-error"]) == (400, "bad_request")


async def test_a_body_is_bounded_packed_and_unpacked_by_its_tenants_limit(
    joining: RunningRouter, desired: Desired, host: FakeHost, proxy: FakeHost
) -> None:
    await desired.limits(max_body_bytes=10_000)
    key = await deployed(joining, desired, host)
    large = ASKED + b" " * 10_000
    while (refused := await joining.infer(key, content=large)).status_code == 200:  # noqa: ASYNC110 - polls
        await asyncio.sleep(0.02)
    proxy.seen.clear()
    bomb = await joining.infer(key, content=gzip.compress(large), headers={"content-encoding": "gzip"})
    assert refused.status_code == bomb.status_code == 413
    assert not proxy.seen


async def test_large_joins_are_made_beside_the_loop_row_by_row(
    joining: RunningRouter, desired: Desired, host: FakeHost
) -> None:
    one = Signature(
        inputs=[TensorSpec(name="x", datatype="FP64", shape=[-1, 2], columns=["peak", "stats__mean"])],
        outputs=SIGNATURE.outputs,
    )
    key = await deployed(joining, desired, host, one)
    sensors = np.arange(1000, 1000 + ROWS_MAX)
    sent = v2.encode_request({"sensor": sensors}, binary=False)
    padded = sent.body + b" " * INLINE_BYTES
    assert (await joining.infer(key, content=padded)).status_code == 200
    np.testing.assert_array_equal(got(host).inputs["x"], np.stack([sensors * 10.0, sensors * 1.0], axis=1))
    more = v2.encode_request({"sensor": np.arange(ROWS_MAX + 1)}, binary=True)
    refused = await joining.infer(key, content=more.body, headers=more.headers)
    assert (refused.status_code, refused.headers["moorage-error"]) == (400, "too_many_rows")
