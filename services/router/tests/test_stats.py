"""Statistics and the repository index, as Triton's clients read them."""

import asyncio
import os
import signal
import time
from typing import Any

import httpx
import pytest
from router_harness import Desired, FakeHost, RouterProcess, RunningRouter, Seen, until

from moorage_common import api_keys
from moorage_common.contracts.stats import VersionStats
from moorage_common.metrics import OVERFLOW
from moorage_common.testing.servers import Server
from moorage_router import stats
from moorage_router.settings import RouterSettings
from moorage_router.stats_exchange import WAIT_S

MODEL_US = 120


async def served(desired: Desired, host: FakeHost, router: RunningRouter) -> api_keys.ApiKey:
    """Model `m` in two versions, the second without traffic, and another tenant's model."""
    key = await desired.key()
    await desired.route({1: 10_000, 2: 0})
    await desired.route({1: 10_000}, tenant="rival", model="theirs")
    await desired.host(host, 1, 2)
    await router.knows(key, 1, 2)
    return key


async def busy(_host: FakeHost, _seen: Seen, writer: asyncio.StreamWriter) -> bool:
    body = b'{"error":"no"}'
    writer.write(b"HTTP/1.1 400 Bad Request\r\nmoorage-out-rows: 9\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    return True


async def test_statistics_count_answers_rows_and_time_by_version_in_tritons_form(
    router: RunningRouter, desired: Desired, host: FakeHost
) -> None:
    key = await served(desired, host, router)
    before_ms = time.time() * 1000
    assert [status for status, _ in await router.burst(key, 6, 2)] == [200] * 6
    host.behaviour = busy
    assert (await router.infer(key)).status_code == 400
    of_model = (await router.get("/v2/models/m/stats", key)).json()["model_stats"]
    assert [(one["name"], one["version"]) for one in of_model] == [("m", "1"), ("m", "2")]
    one = of_model[0]
    assert before_ms - 1 <= one["last_inference"] <= time.time() * 1000
    assert (one["inference_count"], one["execution_count"], one["batch_stats"]) == (6, 6, [])
    durations = one["inference_stats"]
    assert {name: told["count"] for name, told in durations.items()} == {
        "success": 6, "fail": 1, "queue": 6, "compute_input": 0, "compute_infer": 6, "compute_output": 0,
        "cache_hit": 0, "cache_miss": 0,
    }  # fmt: skip
    assert durations["compute_infer"]["ns"] == 6 * MODEL_US * 1000
    assert durations["success"]["ns"] == durations["queue"]["ns"] + durations["compute_infer"]["ns"]
    assert durations["fail"]["ns"] > 0
    assert of_model[1]["inference_count"] == of_model[1]["last_inference"] == 0
    assert (await router.get("/v2/models/m/versions/1/stats", key)).json() == {"model_stats": [one]}
    assert (await router.get("/v2/models/stats", key)).json() == {"model_stats": of_model}
    assert (await router.get("/t/demo/v2/models/stats", key)).json() == {"model_stats": of_model}


async def test_statistics_of_what_a_key_does_not_cover_are_not_shown(
    router: RunningRouter, desired: Desired, host: FakeHost
) -> None:
    key = await served(desired, host, router)
    narrow = await desired.key(scopes=("infer:other-*",))
    await until(lambda: router.app.deps is not None and narrow.kid in router.app.deps.keys._records, "the key")

    async def refused(path: str, with_key: api_keys.ApiKey | None) -> tuple[int, str]:
        answer = await router.get(path, with_key)
        assert list(answer.json()) == ["error"]
        return answer.status_code, answer.headers["moorage-error"]

    assert await refused("/v2/models/theirs/stats", key) == (404, "model_not_found")
    assert await refused("/v2/models/m/versions/7/stats", key) == (404, "version_not_found")
    assert await refused("/v2/models/m/stats", narrow) == (403, "scope_missing")
    assert await refused("/v2/models/stats", None) == (401, "key_absent")
    assert (await router.get("/v2/models/stats", narrow)).json() == {"model_stats": []}


async def test_a_model_that_is_called_stats_keeps_its_metadata(
    router: RunningRouter, desired: Desired, host: FakeHost
) -> None:
    key = await served(desired, host, router)
    await desired.route({1: 10_000}, model="stats")
    await desired.host(host, 1, model="stats")
    await router.knows(key, 1, model="stats")
    assert (await router.get("/v2/models/stats", key)).json()["name"] == "stats"
    assert (await router.get("/v2/models/stats/stats", key)).json()["model_stats"][0]["name"] == "stats"


async def test_the_index_tells_each_version_and_its_state(
    router: RunningRouter, desired: Desired, host: FakeHost
) -> None:
    key = await served(desired, host, router)
    await desired.route({1: 5_000, 2: 4_000, 3: 1_000})
    url, headers = "/v2/repository/index", {"authorization": f"Bearer {key.text}"}

    async def index(content: bytes) -> Any:
        return (await router.client.post(url, headers=headers, content=content)).json()

    async with asyncio.timeout(15):
        while len(await index(b"")) < 3:  # noqa: ASYNC110 - asks the router
            await asyncio.sleep(0.01)
    ready = [{"name": "m", "version": version, "state": "READY", "reason": ""} for version in ("1", "2")]
    waiting = {"name": "m", "version": "3", "state": "UNAVAILABLE", "reason": "no replica is ready"}
    assert await index(b"{}") == [*ready, waiting]
    assert await index(b'{"ready": true}') == ready
    for wrong in (b"[]", b"{", b'{"ready": 1}', b"{" + b" " * 5000 + b"}"):
        refused = await router.client.post(url, headers=headers, content=wrong)
        assert (refused.status_code, refused.headers["moorage-error"]) == (400, "index_request_invalid")
    assert (await router.get(url, key)).status_code == 405
    assert (await router.client.post(url)).status_code == 401
    told = (await router.get("/v2")).json()["extensions"]
    assert {"statistics", "model_repository_index"} <= set(told)
    assert "model_repository" not in told


async def test_statistics_are_summed_over_routers_and_one_answers_alone_without_the_bus(
    router: RunningRouter, desired: Desired, host: FakeHost, settings: RouterSettings, own_nats: Server
) -> None:
    key = await served(desired, host, router)
    beside = RouterProcess(settings.model_copy(update={"router_name": "beside"}))
    try:
        async with httpx.AsyncClient(timeout=30) as client:
            await beside.answers(key, client)
            assert [await beside.infer(key, client) for _ in range(9)] == [200] * 9
            assert [status for status, _ in await router.burst(key, 6, 2)] == [200] * 6
            deps = router.app.deps
            assert deps is not None
            await until(lambda: deps.stats.others() == 1, "the other router's load report")
            assert await counted(router, key) == 16
            answer = await client.get(
                f"http://127.0.0.1:{beside.port}/v2/models/m/stats", headers={"authorization": f"Bearer {key.text}"}
            )
            assert answer.json() == (await router.get("/v2/models/m/stats", key)).json()
            os.kill(own_nats.pid, signal.SIGSTOP)
            begun = time.monotonic()
            assert await counted(router, key) == 6
            assert time.monotonic() - begun < 4 * WAIT_S
    finally:
        os.kill(own_nats.pid, signal.SIGCONT)
        beside.end(signal.SIGTERM)


async def counted(router: RunningRouter, key: api_keys.ApiKey) -> int:
    told = (await router.get("/v2/models/m/versions/1/stats", key)).json()["model_stats"]
    return int(told[0]["execution_count"])


async def test_callers_at_one_time_share_one_question_to_the_others(
    router: RunningRouter, desired: Desired, host: FakeHost
) -> None:
    key = await served(desired, host, router)
    deps = router.app.deps
    assert deps is not None
    await deps.bus.client.publish("load.silent", b"{}")
    await until(lambda: deps.stats.others() == 1, "the silent router's report")
    asked: list[bytes] = []

    async def note(message: Any) -> None:
        asked.append(message.data)

    subscription = await desired.bus.client.subscribe("stats.tenant", cb=note)
    await desired.bus.client.flush()
    answers = await asyncio.gather(*(router.get("/v2/models/stats", key) for _ in range(20)))
    await subscription.unsubscribe()
    assert {answer.status_code for answer in answers} == {200}
    assert len(asked) < 4


async def test_versions_beyond_the_cap_share_a_series_and_have_no_statistics(
    router: RunningRouter, desired: Desired, host: FakeHost
) -> None:
    router.app.metrics.series.limit = 1
    key = await served(desired, host, router)
    deps = router.app.deps
    assert deps is not None
    shared = [v for v in deps.routes.find("demo", "m").versions.values() if v.series.labels[-1] == OVERFLOW]
    assert [version.number for version in shared] == [2]
    refused = await router.get("/v2/models/m/versions/2/stats", key)
    assert (refused.status_code, refused.headers["moorage-error"]) == (404, "stats_not_kept")
    assert [one["version"] for one in (await router.get("/v2/models/m/stats", key)).json()["model_stats"]] == ["1"]


@pytest.mark.parametrize("own_last", [5, 9])
def test_a_sum_takes_the_latest_time_and_only_versions_that_are_served(own_last: int) -> None:
    own = VersionStats(model="m", version=1, success=1, failed=2, success_us=3, failed_us=4, rows=5, last_ms=own_last)
    other = own.model_copy(update={"last_ms": 7, "model_us": 2})
    gone = own.model_copy(update={"version": 9})
    (one,) = stats.summed([own], [other, gone])
    assert (one.success, one.failed, one.success_us, one.failed_us, one.rows, one.model_us) == (2, 4, 6, 8, 10, 2)
    assert one.last_ms == max(own_last, 7)
