"""The Open Inference Protocol as clients meet it: answers, refusals, headers."""

import asyncio
import json
import logging
import time
from collections import Counter

import pytest
from prometheus_client import generate_latest
from router_harness import BODY, PEPPER, Desired, FakeHost, RunningRouter, until

from moorage_common import api_keys
from moorage_common.contracts.request_id import parse_request_id
from moorage_common.secrets import derive
from moorage_router.settings import RouterSettings


async def test_an_inference_is_answered_with_the_chosen_versions_answer_and_a_request_id(
    router: RunningRouter, desired: Desired, host: FakeHost
) -> None:
    key = await desired.key()
    await desired.route({1: 10_000})
    await desired.host(host, 1)
    await router.knows(key, 1)
    answer = await router.infer(key)
    assert answer.status_code == 200
    assert answer.json()["model_version"] == "1"
    rid = parse_request_id(derive(PEPPER, "request-id"), "demo", answer.headers["moorage-request-id"])
    assert rid is not None
    assert (rid.model, rid.version, rid.arm, rid.revision) == ("m", 1, "v1", 7)
    assert not [name for name in answer.headers if name.startswith("moorage-out-")]
    assert answer.headers["ratelimit-policy"] == '"requests";q=2000;w=2'


async def test_a_host_gets_token_tenant_deadline_and_trace_and_nothing_the_client_forged(
    router: RunningRouter, desired: Desired, host: FakeHost
) -> None:
    key = await desired.key()
    await desired.route({1: 10_000})
    await desired.host(host, 1)
    await router.knows(key, 1)
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    forged = {
        "moorage-host-token": "forged", "moorage-tenant": "other", "moorage-deadline-ms": "1", "cookie": "c=1",
        "te": "trailers", "traceparent": parent, "content-type": "application/json", "x-secret": "1",
    }  # fmt: skip
    assert (await router.infer(key, headers=forged)).status_code == 200
    headers = host.seen[-1].headers
    assert headers["moorage-host-token"] == "token-1"
    assert headers["moorage-tenant"] == "demo"
    assert headers["moorage-arm"] == "v1"
    assert 20_000 < int(headers["moorage-deadline-ms"]) <= 30_000
    assert headers["traceparent"].startswith(parent[:36])
    assert headers["traceparent"] != parent
    assert not {"authorization", "cookie", "te", "x-secret"} & headers.keys()
    assert host.seen[-1].body == BODY


async def test_refusals_have_the_protocols_shape_and_say_what_to_do(
    router: RunningRouter, desired: Desired, host: FakeHost
) -> None:
    key = await desired.key(scopes=("infer:m",))
    narrow = await desired.key(scopes=("infer:other",))
    foreign = await desired.key(tenant="rival")
    expired = await desired.key(expires_at=1.0)
    early = await desired.key(not_before=time.time() + 3600)
    await desired.limits(max_body_bytes=1000)
    await desired.route({1: 10_000})
    await desired.host(host, 1)
    await router.knows(key, 1)
    await until(lambda: early.kid in router.app.deps.keys._records)
    await until(lambda: "demo" in router.app.deps.limits.tenants)
    refused = [
        (await router.infer("mrg_live_short"), 401, "key_malformed"),
        (await router.infer(api_keys.mint()), 401, "key_unknown"),
        (await router.infer(api_keys.ApiKey(key.kid, "", api_keys.mint().text)), 401, "key_unknown"),
        (await router.infer(expired), 401, "key_expired"),
        (await router.infer(early), 401, "key_not_yet_valid"),
        (await router.client.post("/v2/models/m/infer", content=BODY), 401, "key_absent"),
        (await router.infer(narrow), 403, "scope_missing"),
        (await router.infer(foreign), 404, "model_not_found"),
        (await router.infer(key, "/v2/models/absent/infer"), 404, "model_not_found"),
        (await router.infer(key, "/v2/models/m/versions/9/infer"), 404, "version_not_found"),
        (await router.infer(key, "/v2/models/m/versions/x/infer"), 404, "version_not_found"),
        (await router.infer(key, "/t/rival/v2/models/m/infer"), 404, "tenant_not_found"),
        (await router.infer(key, content=b"x" * 1001), 413, "too_large"),
        (await router.get("/v2/models/m/infer", key), 405, "method_not_allowed"),
        (await router.infer(key, "/v2/models/m"), 405, "method_not_allowed"),
        (await router.get("/v1/elsewhere"), 404, "path_not_found"),
        (await router.get("/v2/repository/x", key), 404, "path_not_found"),
    ]
    for answer, status, code in refused:
        assert (answer.status_code, answer.headers["moorage-error"]) == (status, code)
        assert list(answer.json()) == ["error"]
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["moorage-request-id"]
        assert answer.headers.get("allow") == {"/v2/models/m/infer": "POST", "/v2/models/m": "GET"}.get(
            answer.request.url.path if status == 405 else ""
        )
    assert host.seen == []


async def test_health_metadata_and_readiness_are_answered_from_memory(
    router: RunningRouter, desired: Desired, host: FakeHost
) -> None:
    key = await desired.key()
    await desired.route({1: 9_000, 2: 1_000})
    await desired.route({1: 10_000}, tenant="rival", model="theirs")
    await desired.host(host, 1)
    await router.knows(key, 1)
    assert (await router.get("/v2/health/live")).json() == {"live": True}
    assert (await router.get("/v2/health/ready")).json() == {"ready": True, "live": True}
    assert (await router.get("/v2")).json()["name"] == (await router.get("/v2/")).json()["name"] == "moorage"
    metadata = (await router.get("/v2/models/m", key)).json()
    assert metadata["versions"] == ["1", "2"]
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
    assert (await router.get("/v2/models/m/versions/1", key)).json() == metadata
    assert (await router.get("/v2/models/m/versions/1/ready", key)).json() == {"name": "m", "ready": True}
    unready = await router.get("/v2/models/m/ready", key)
    assert unready.status_code == 503
    assert int(unready.headers["retry-after"]) >= 1
    await desired.host(host, 1, 2)
    await router.knows(key, 1, 2)
    assert (await router.get("/t/demo/v2/models/m/ready", key)).json() == {"name": "m", "ready": True}
    assert (await router.get("/v2/models", key)).json() == {
        "models": [{"name": "m", "versions": ["1", "2"], "ready": True}]
    }


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 2\r\nContent-Length: 3\r\n",
        b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n",
        b"Content-Length: -2\r\n",
    ],
)
async def test_contradicting_framing_is_refused_and_the_connection_closed(
    router: RunningRouter, framing: bytes
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
    writer.write(b"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\n" + framing + b"\r\n{}")
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert b"content-type: application/json\r\n" in head
    assert list(json.loads(body)) == ["error"]


async def test_a_long_answer_and_a_long_body_pass_through_in_parts(
    router: RunningRouter, desired: Desired, host: FakeHost
) -> None:
    key = await desired.key()
    await desired.route({1: 10_000})
    await desired.host(host, 1)
    await router.knows(key, 1)
    long_answer = bytes(range(256)) * 4096 * 4

    async def speak(_host: FakeHost, _seen: object, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nmoorage-out-rows: 5\r\n\r\n")
        for at in range(0, len(long_answer), 50_000):
            part = long_answer[at : at + 50_000]
            writer.write(b"%x\r\n%b\r\n" % (len(part), part))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        return True

    host.behaviour = speak
    long_body = b"z" * 3_000_000
    for _turn in range(2):
        answer = await router.infer(key, content=long_body)
        assert answer.status_code == 200
        assert answer.content == long_answer
        assert host.seen[-1].body == long_body

    async def parts() -> object:
        for _part in range(30):
            yield b"y" * 100_000

    answer = await router.infer(key, content=parts())
    assert answer.content == long_answer
    assert host.seen[-1].body == b"y" * 3_000_000


async def test_the_split_is_kept_within_three_sigma(router: RunningRouter, desired: Desired, host: FakeHost) -> None:
    key = await desired.key()
    await desired.limits(requests_per_s=100_000, burst=100_000)
    await desired.route({1: 9_000, 2: 1_000})
    await desired.host(host, 1, 2)
    await router.knows(key, 1, 2)
    total = 10_000
    answers = await router.burst(key, total, 20)
    assert {status for status, _ in answers} == {200}
    chosen = Counter(json.loads(body)["model_version"] for _, body in answers)
    sigma = (total * 0.9 * 0.1) ** 0.5
    assert abs(chosen["2"] - total * 0.1) <= 3 * sigma
    assert (await router.infer(key, "/v2/models/m/versions/2/infer")).json()["model_version"] == "2"


async def test_metrics_name_tenant_model_and_version_and_nothing_a_caller_made_up(
    router: RunningRouter, desired: Desired, host: FakeHost
) -> None:
    key = await desired.key()
    await desired.route({1: 10_000})
    await desired.host(host, 1)
    await router.knows(key, 1)
    assert [status for status, _ in await router.burst(key, 6, 2)] == [200] * 6
    await router.infer(key, "/v2/models/made-up/infer")
    text = generate_latest(router.app.metrics.registry).decode()
    names = 'model="m",tenant="demo",version="1"'
    for line in (
        f'moorage_router_requests_total{{code="200",{names}}} 6.0',
        f'moorage_router_request_duration_seconds_bucket{{le="+Inf",{names}}} 6.0',
        f"moorage_router_request_duration_seconds_count{{{names}}} 6.0",
        'moorage_router_in_flight{model="m",tenant="demo"} 0.0',
        'moorage_router_ready_replicas{model="m",tenant="demo"} 1.0',
        'moorage_router_refused_total{code="model_not_found"} 1.0',
    ):
        assert line in text
    assert "moorage_router_quota_tokens{" in text
    assert "made-up" not in text


async def test_no_key_in_clear_reaches_logs_or_disk(
    router: RunningRouter, desired: Desired, host: FakeHost, settings: RouterSettings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    key = await desired.key()
    await desired.route({1: 10_000})
    await desired.host(host, 1)
    await router.knows(key, 1)
    await router.infer(key)
    snapshot = settings.state_dir / f"{settings.router_name}.snapshot.json"
    await until(lambda: snapshot.exists() and key.kid in snapshot.read_text(), "the snapshot")
    assert snapshot.stat().st_mode & 0o777 == 0o600
    await asyncio.to_thread(lambda: None)
    for path in settings.state_dir.rglob("*"):
        if path.is_file():
            assert key.secret.encode() not in path.read_bytes()
    assert key.secret not in caplog.text


async def test_an_encoded_slash_is_no_part_of_a_path(router: RunningRouter, desired: Desired, host: FakeHost) -> None:
    """A proxy that lets some paths through sees the same path as the router."""
    key = await desired.key()
    await desired.route({1: 10_000})
    await desired.host(host, 1)
    await router.knows(key, 1)
    assert (await router.infer(key, "/v2/models/m%2Finfer")).status_code == 405
    assert (await router.infer(key, "/v2%2Fmodels/m/infer")).status_code == 404
    assert (await router.infer(key, "/v2/models/%6D/infer")).status_code == 200
