"""What every service answers alike: refusals, health, metrics; and what its log never shows."""

import io
import json
import logging
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
import structlog
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter

from moorage_common import api_keys, logs
from moorage_common.app import install_error_handlers, ops_app
from moorage_common.errors import MoorageError, NotFound, OverQuota, Unavailable
from moorage_common.metrics import OVERFLOW, TenantSeries


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    install_error_handlers(app)

    @app.get("/refuse/{kind}")
    async def refuse(kind: str) -> None:
        known: dict[str, Exception] = {
            "quota": OverQuota("wait a second", retry_after_s=0.2),
            "missing": NotFound("no such model", code="model_not_found", detail="internal text"),
            "bug": RuntimeError("internal text"),
        }
        raise known[kind]

    @app.get("/number/{n}")
    async def number(n: int) -> int:
        return n

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        yield client


async def test_a_refusal_names_a_stable_code_and_keeps_internals_to_itself(client: httpx.AsyncClient) -> None:
    answer = await client.get("/refuse/missing")
    assert (answer.status_code, answer.json()) == (404, {"error": "no such model", "code": "model_not_found"})
    answer = await client.get("/refuse/bug")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "internal text" not in answer.text


async def test_a_refusal_says_when_to_come_back_in_whole_seconds(client: httpx.AsyncClient) -> None:
    answer = await client.get("/refuse/quota")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("POST", "/number/1", 405, "method_not_allowed"),
        ("GET", "/number/one", 422, "invalid_request"),
    ],
)
async def test_the_frameworks_own_refusals_look_the_same(
    client: httpx.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    answer = await client.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["error"]
    assert (answer.headers.get("allow") == "GET") == (status == 405)


@pytest.mark.parametrize(("seconds", "header"), [(0.0, "1"), (1.0, "1"), (1.01, "2"), (30.0, "30")])
def test_retry_after_is_rounded_up(seconds: float, header: str) -> None:
    assert Unavailable("starting", retry_after_s=seconds).headers == {"retry-after": header}


def test_without_a_time_there_is_no_retry_after() -> None:
    assert MoorageError("no").headers == {}


async def test_operations_tell_health_readiness_and_metrics() -> None:
    registry = CollectorRegistry()
    Counter("made", "x", registry=registry).inc()
    reasons: list[str | None] = ["the bus is away", None]

    async def ready() -> str | None:
        return reasons.pop(0)

    transport = httpx.ASGITransport(ops_app(registry, ready))
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        assert (await client.get("/healthz")).status_code == 200
        waiting = await client.get("/readyz")
        assert (waiting.status_code, waiting.json()["error"]) == (503, "the bus is away")
        assert (await client.get("/readyz")).status_code == 200
        assert "made_total 1.0" in (await client.get("/metrics")).text


def test_a_tenant_cannot_make_more_series_than_its_cap() -> None:
    series = TenantSeries(limit=3)
    counter = Counter("requests", "x", ["tenant", "model"], registry=series.registry)
    for n in range(10):
        series.child(counter, "acme", f"m{n}").inc()
        series.child(counter, "other", "m").inc()
    value = series.registry.get_sample_value
    assert value("requests_total", {"tenant": "acme", "model": "m2"}) == 1
    assert value("requests_total", {"tenant": "acme", "model": OVERFLOW}) == 7
    assert value("requests_total", {"tenant": "other", "model": "m"}) == 10


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    logs.configure("test", log_format="json")
    stream = io.StringIO()
    handler = root.handlers[0]
    assert isinstance(handler, logging.StreamHandler)
    handler.setStream(stream)
    yield stream
    root.handlers[:] = before
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def test_logs_show_neither_keys_nor_passwords(written: io.StringIO) -> None:
    key = api_keys.mint()
    urls = ["redis://:hunter2@127.0.0.1:1/0", "nats://moorage:hunter2@h:2", "postgresql+asyncpg://a:hunter2@h/db"]
    log = structlog.get_logger()
    log.info("plain", key=key.text, redis=urls[0])
    log.info("nested", headers={"authorization": f"Bearer {key.text}"}, urls=urls)
    logging.getLogger("library").warning("connecting to %s with %s", urls[1], key.text)
    try:
        raise ConnectionError(urls[0] + key.text)
    except ConnectionError:
        log.exception("failed")
    text = written.getvalue()
    assert "hunter2" not in text
    assert key.secret not in text
    assert key.kid in text, "a key's kid is what one looks for in a log"
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["event"] for line in lines][::3] == ["plain", "failed"]
    assert all(line["service"] == "test" for line in lines)


def test_a_log_line_without_secrets_stays_as_it_is(written: io.StringIO) -> None:
    structlog.get_logger().info("plain", url="http://host:80/a", mail="a@b.c")
    line = json.loads(written.getvalue())
    assert (line["url"], line["mail"]) == ("http://host:80/a", "a@b.c")
