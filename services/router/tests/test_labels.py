"""Labels at the router: 202 only for what JetStream holds, each id proven, good ones not refused for bad ones."""

import asyncio
import json
import logging
import time
from typing import Any

import httpx
import pytest
import structlog.testing
from prometheus_client import generate_latest
from router_harness import PEPPER, Desired, RunningRouter, until

from moorage_common.api_keys import ApiKey
from moorage_common.bus import Bus
from moorage_common.contracts.feedback import OUTPUT_BYTES, Feedback, FeedbackChunk
from moorage_common.contracts.names import STREAM_FEEDBACK
from moorage_common.contracts.request_id import RequestId, format_request_id, new_ulid
from moorage_common.errors import MoorageError
from moorage_common.secrets import derive
from moorage_common.testing.servers import Server
from moorage_router.auth import Credentials
from moorage_router.feedback.rates import LabelRates
from moorage_router.feedback.reading import BODY_BYTES, MOST_ITEMS

PATH = "/v2/models/m/feedback"
SECRET = derive(PEPPER, "request-id")


def an_id(tenant: str = "demo", *, model: str = "m", version: int = 3, secret: bytes = SECRET, ulid: str = "") -> str:
    """An id as routers give it."""
    rid = RequestId(ulid=ulid or new_ulid(), model=model, version=version, arm=f"v{version}", revision=7)
    return format_request_id(secret, tenant, rid)


async def send(router: RunningRouter, key: ApiKey, said: Any, path: str = PATH) -> httpx.Response:
    return await router.infer(key, path, content=said if isinstance(said, bytes) else json.dumps(said).encode())


def refused(answer: httpx.Response) -> tuple[int, str]:
    assert list(answer.json()) == ["error"]
    return answer.status_code, answer.headers["moorage-error"]


async def on_the_stream(bus: Bus) -> list[FeedbackChunk]:
    info = await bus.jetstream().stream_info(STREAM_FEEDBACK)
    first, last = info.state.first_seq, info.state.last_seq
    messages = [await bus.jetstream().get_msg(STREAM_FEEDBACK, number) for number in range(max(1, first), last + 1)]
    return [FeedbackChunk.model_validate_json(message.data or b"") for message in messages]


async def labels_on(bus: Bus) -> list[Feedback]:
    return [one for chunk in await on_the_stream(bus) for one in chunk.feedback]


@pytest.fixture
async def key(router: RunningRouter, desired: Desired) -> ApiKey:
    """A key of demo, whose model m is deployed as version 1 alone."""
    return await known(router, desired)


async def known(router: RunningRouter, desired: Desired, tenant: str = "demo", **fields: Any) -> ApiKey:
    found = await desired.key(tenant, **fields)
    await desired.limits(tenant, requests_per_s=100_000, burst=100_000)
    await desired.route({1: 10_000}, tenant=tenant)

    def there() -> bool:
        deps = router.app.deps
        assert deps is not None
        try:
            deps.endpoints._gateway.identify(Credentials(f"Bearer {found.text}".encode()), None)
        except MoorageError:
            return False
        return tenant in deps.limits.tenants

    await until(there, "the key")
    return found


async def test_a_label_is_accepted_once_the_stream_holds_it_and_says_which_version_answered(
    router: RunningRouter, desired: Desired, key: ApiKey
) -> None:
    began, request_id = time.time(), an_id(version=3)
    answer = await send(router, key, {"id": request_id, "label": "fraud"})
    assert (answer.status_code, answer.json()) == (202, {"accepted": 1, "refused": []})
    (label,) = await labels_on(desired.bus)
    told = label.model_dump(exclude={"at"}, exclude_none=True)
    assert told == {
        "tenant": "demo", "model": "m", "version": 3, "ulid": request_id[:26], "label": "fraud",
    }  # fmt: skip
    assert began <= label.at <= time.time()


async def test_every_form_of_label_reaches_the_stream_as_it_was(
    router: RunningRouter, desired: Desired, key: ApiKey
) -> None:
    forms: list[dict[str, Any]] = [
        {"label": "ja, größte"}, {"label": 3}, {"label": 2**63 - 1}, {"label": 0.25}, {"label": True},
        {"label": "a" * OUTPUT_BYTES}, {"label": ""}, {"correct": True}, {"correct": False}, {"loss": 0.5},
        {"loss": -2}, {"label": "a", "correct": True, "loss": 1.5, "unknown": [1]},
    ]  # fmt: skip
    answer = await send(router, key, {"feedback": [{"id": an_id(), **form} for form in forms]})
    assert answer.json() == {"accepted": len(forms), "refused": []}
    came = [(one.label, one.correct, one.loss) for one in await labels_on(desired.bus)]
    assert came == [
        ("ja, größte", None, None), ("3", None, None), (str(2**63 - 1), None, None), (0.25, None, None),
        (True, None, None), ("a" * OUTPUT_BYTES, None, None), ("", None, None), (None, True, None),
        (None, False, None), (None, None, 0.5), (None, None, -2.0), ("a", True, 1.5),
    ]  # fmt: skip


async def test_a_thousand_labels_go_in_one_call_and_no_message_is_too_long_for_the_bus(
    router: RunningRouter, desired: Desired, key: ApiKey
) -> None:
    said = [{"id": an_id(), "label": "\x01" * OUTPUT_BYTES if index % 5 == 0 else index} for index in range(MOST_ITEMS)]
    answer = await send(router, key, {"feedback": said})
    assert answer.json() == {"accepted": MOST_ITEMS, "refused": []}
    chunks = await on_the_stream(desired.bus)
    assert [one.ulid for chunk in chunks for one in chunk.feedback] == [one["id"][:26] for one in said]
    assert 1 < len(chunks) < 10
    assert len({chunk.chunk_id for chunk in chunks}) == len(chunks)


async def test_a_retry_adds_nothing_to_the_stream(router: RunningRouter, desired: Desired, key: ApiKey) -> None:
    said = {"feedback": [{"id": an_id(), "label": index} for index in range(20)]}
    for _ in range(3):
        assert (await send(router, key, said)).json() == {"accepted": 20, "refused": []}
    assert len(await labels_on(desired.bus)) == 20


async def test_a_forged_or_foreign_id_is_refused_by_name_and_nothing_is_kept_of_it(
    router: RunningRouter, desired: Desired, key: ApiKey
) -> None:
    await known(router, desired, "other")
    good = an_id()
    middle = good.split(".")
    an_other = an_id("other")
    bad = {
        "another tenant's": an_other,
        "another model's": an_id(model="n"),
        "made without the secret": an_id(secret=b"guess"),
        "of another version": ".".join([*middle[:2], "4", *middle[3:]]),
        "of another arm": ".".join([*middle[:3], "v9", *middle[4:]]),
        "of another time": new_ulid() + good[26:],
        "cut": good[:-1],
        "with more": good + "0",
        "no id": "nothing",
        "empty": "",
        "very long": "a" * 100_000,
        "of other letters": "\u0661" + good[1:],
    }
    for name, text in bad.items():
        answer = await send(router, key, {"id": text, "label": 1})
        assert refused(answer) == (422, "feedback_refused"), name
        assert text[:60] in answer.json()["error"], name
    answer = await send(router, key, {"feedback": [{"id": text, "label": 1} for text in bad.values()]})
    assert refused(answer) == (422, "feedback_refused")
    assert answer.json()["error"].startswith("no label was taken: no answer of m to this tenant has this id")
    assert f"(number 0 of {len(bad)}, {an_other})" in answer.json()["error"]
    assert good[:26] not in {label.ulid for label in await labels_or_none(desired.bus)}


async def labels_or_none(bus: Bus) -> list[Feedback]:
    return await labels_on(bus) if STREAM_FEEDBACK in await streams(bus) else []


async def streams(bus: Bus) -> list[str]:
    return [info.config.name or "" for info in await bus.jetstream().streams_info()]


async def test_good_labels_are_kept_beside_bad_ones_and_each_bad_one_is_named_with_its_reason(
    router: RunningRouter, desired: Desired, key: ApiKey
) -> None:
    first, second, foreign = an_id(), an_id(), an_id("other")
    said = [
        {"id": foreign, "label": 1}, {"id": first, "label": 1}, {"label": 1}, {"id": an_id()}, 7, {"id": 7, "label": 1},
        {"id": first, "label": 2}, {"id": an_id(), "label": [1]}, {"id": an_id(), "label": "a" * (OUTPUT_BYTES + 1)},
        {"id": an_id(), "label": "nul \0"}, {"id": an_id(), "correct": 1}, {"id": an_id(), "loss": "0.5"},
        {"id": an_id(), "loss": True}, {"id": an_id(), "label": 1e305}, {"id": second, "correct": False},
    ]  # fmt: skip
    answer = await send(router, key, {"feedback": said})
    assert answer.status_code == 202
    told = answer.json()
    assert told["accepted"] == 2
    assert [(one["index"], one["code"]) for one in told["refused"]] == [
        (0, "id_unknown"), (2, "id_missing"), (3, "label_missing"), (4, "id_missing"), (5, "id_missing"),
        (6, "label_repeated"), (7, "label_invalid"), (8, "label_invalid"), (9, "label_invalid"),
        (10, "label_invalid"), (11, "label_invalid"), (12, "label_invalid"), (13, "label_invalid"),
    ]  # fmt: skip
    assert told["refused"][0]["id"] == foreign
    assert "Moorage-Request-Id" in told["refused"][0]["error"]
    assert [(one.ulid, one.label) for one in await labels_on(desired.bus)] == [(first[:26], "1"), (second[:26], None)]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "feedback_unreadable"),
        (b"[]", 400, "feedback_unreadable"),
        (b"not json", 400, "feedback_unreadable"),
        (b"[" * 100_000, 400, "feedback_unreadable"),
        (b'{"feedback": {}}', 400, "feedback_unreadable"),
        (b'{"feedback": []}', 400, "feedback_unreadable"),
        (b'{"feedback": null}', 400, "feedback_unreadable"),
        (b'{"id": "\xff", "label": 1}', 400, "feedback_unreadable"),
        (b'{"id": "\\ud800", "label": 1}', 400, "feedback_unreadable"),
        (b'{"id": "a", "loss": 1e999}', 400, "feedback_unreadable"),
        (b"{}", 422, "feedback_refused"),
        (json.dumps({"feedback": [{}] * (MOST_ITEMS + 1)}).encode(), 413, "too_many_labels"),
        (b" " * (BODY_BYTES + 1), 413, "too_large"),
    ],
)
async def test_a_body_that_is_no_feedback_is_refused_with_the_way_out(
    router: RunningRouter, key: ApiKey, body: bytes, status: int, code: str
) -> None:
    assert refused(await send(router, key, body)) == (status, code)


async def test_a_version_that_is_not_deployed_any_more_takes_labels_and_so_does_a_model(
    router: RunningRouter, desired: Desired, key: ApiKey
) -> None:
    assert (await send(router, key, {"id": an_id(version=1), "label": 1})).status_code == 202
    assert (await send(router, key, {"id": an_id(version=999), "label": 1})).status_code == 202
    gone = an_id(model="gone", ulid=new_ulid(int((time.time() - 40 * 86_400) * 1000)))
    assert (await send(router, key, {"id": gone, "label": 1}, "/v2/models/gone/feedback")).status_code == 202
    assert {(label.model, label.version) for label in await labels_on(desired.bus)} == {
        ("m", 1), ("m", 999), ("gone", 3),
    }  # fmt: skip


async def test_a_key_needs_the_scope_of_the_model(router: RunningRouter, desired: Desired) -> None:
    said = {"id": an_id(), "label": 1}
    for scopes, status in (
        (("feedback:m",), 202), (("infer:m*",), 202), (("feedback:n", "infer:n"), 403), (("deploy:write",), 403),
    ):  # fmt: skip
        key = await known(router, desired, scopes=scopes)
        answer = await send(router, key, said)
        assert answer.status_code == status, scopes
    assert "feedback:m" in answer.json()["error"]
    answer = await router.client.post(PATH, json=said)
    assert refused(answer) == (401, "key_absent")
    assert refused(await send(router, key, said, "/t/other/v2/models/m/feedback"))[0] == 404
    assert refused(await send(router, key, said, "/v2/models/No%20Name/feedback")) == (404, "model_not_found")


async def test_only_post_takes_labels_and_only_at_the_models_path(router: RunningRouter, key: ApiKey) -> None:
    answer = await router.get(PATH, key)
    assert (*refused(answer), answer.headers["allow"]) == (405, "method_not_allowed", "POST")
    assert refused(await send(router, key, {}, "/v2/models/m/versions/1/feedback")) == (404, "path_not_found")
    assert (await send(router, key, {"id": an_id(), "label": 1}, f"/t/demo{PATH}")).status_code == 202


async def test_a_call_is_one_request_of_the_tenants_quota_however_many_labels_it_has(
    router: RunningRouter, desired: Desired, key: ApiKey
) -> None:
    await desired.limits(requests_per_s=0.001, burst=3)
    deps = router.app.deps
    assert deps is not None
    await until(lambda: deps.limits.tenants["demo"].limits.burst == 3, "the limits")
    answers = [
        await send(router, key, {"feedback": [{"id": an_id(), "label": 1} for _ in range(50)]}) for _ in range(6)
    ]
    statuses = [answer.status_code for answer in answers]
    assert statuses[-1] == 429
    assert 1 <= statuses.count(202) <= 3
    assert deps.limits.tenants["demo"].in_flight == 0


async def test_labels_sent_without_end_are_refused_before_they_fill_the_stream_of_all_tenants(
    router: RunningRouter, desired: Desired, key: ApiKey
) -> None:
    deps = router.app.deps
    assert deps is not None
    deps.endpoints._feedback.rates = LabelRates(a_second=1.0, burst=100)
    other = await known(router, desired, "other")
    said = [{"id": an_id(), "label": 1} for _ in range(60)]
    answers = [await send(router, key, {"feedback": said}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [202, 202, 429], "sent again they count as well"
    assert refused(answers[2]) == (429, "labels_over_rate")
    assert 10 <= int(answers[2].headers["retry-after"]) <= 20
    assert (await send(router, other, {"id": an_id("other"), "label": 1})).status_code == 202


async def test_with_the_bus_away_labels_are_refused_with_when_to_come_back_and_none_is_lost_afterwards(
    router: RunningRouter, desired: Desired, key: ApiKey, own_nats: Server
) -> None:
    before, meanwhile = an_id(), an_id()
    assert (await send(router, key, {"id": before, "label": 1})).status_code == 202
    await asyncio.to_thread(own_nats.kill)
    answer = await send(router, key, {"id": meanwhile, "label": 1})
    assert refused(answer) == (503, "feedback_away")
    assert int(answer.headers["retry-after"]) >= 1
    await asyncio.to_thread(own_nats.start)
    deadline = time.monotonic() + 30
    while (await send(router, key, {"id": meanwhile, "label": 1})).status_code != 202:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    assert {label.ulid for label in await labels_on(desired.bus)} == {before[:26], meanwhile[:26]}


async def test_a_full_stream_refuses_and_keeps_what_it_acknowledged(
    router: RunningRouter, desired: Desired, key: ApiKey
) -> None:
    js = desired.bus.jetstream()
    kept = an_id()
    assert (await send(router, key, {"id": kept, "label": 1})).status_code == 202
    config = (await js.stream_info(STREAM_FEEDBACK)).config
    await js.update_stream(config.evolve(max_bytes=2000))
    long = [{"id": an_id(), "label": "a" * 1000} for _ in range(2)]
    assert refused(await send(router, key, {"feedback": long})) == (503, "feedback_away")
    assert [label.ulid for label in await labels_on(desired.bus)] == [kept[:26]]


async def test_no_label_reaches_logs_or_metrics(
    router: RunningRouter, key: ApiKey, own_nats: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret, foreign = "the-patient-has-it", an_id("other")
    said = {"feedback": [{"id": an_id(), "label": secret}, {"id": foreign, "label": secret}]}
    with structlog.testing.capture_logs() as logged:
        assert (await send(router, key, said)).status_code == 202
        assert (await send(router, key, {"id": foreign, "label": secret})).status_code == 422
        assert (await send(router, key, {"id": secret, "label": [secret]})).status_code == 422
        await asyncio.to_thread(own_nats.kill)
        assert (await send(router, key, said)).status_code == 503
    series = generate_latest(router.app.metrics.registry).decode()
    assert "labels not taken by the bus" in {entry["event"] for entry in logged}
    assert secret not in str(logged) + caplog.text + series
    assert 'moorage_router_feedback_total{outcome="accepted"} 1.0' in series
    assert 'moorage_router_feedback_total{outcome="refused"} 4.0' in series
