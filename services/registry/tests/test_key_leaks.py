"""Keys that leaked, and when a key was last used."""

import secrets
import time
from datetime import datetime
from typing import Any

import httpx

from moorage_common import api_keys
from moorage_common.contracts.keys import KeyRecord
from moorage_common.contracts.usage import UsageChunk, UsageRow
from moorage_registry.keys.leaks import ALL_TOGETHER, AN_ADDRESS, ANSWER_S, ReportRates
from moorage_registry.keys.repository import USED_EACH_S
from moorage_registry.keys.uses import KeyUses
from moorage_registry.testing import Caller, Platform
from moorage_registry.usage.consumer import UsageConsumer

REPORT = "/v1/keys/leaked"


async def report(http: httpx.AsyncClient, text: str) -> httpx.Response:
    """As anyone may: without a key."""
    return await http.post(REPORT, json={"key": text})


async def test_a_reported_key_is_revoked_at_once_and_its_tenant_is_told_what_it_made(
    platform: Platform, demo: Caller
) -> None:
    leaked = await demo.ok("POST", "/v1/keys", json={"scopes": ["keys:admin", "infer:*"], "name": "laptop"})
    bearer = Caller(demo.http, demo.tenant, leaked["key"])
    made = await bearer.ok("POST", "/v1/keys", json={"scopes": ["infer:*"]})
    for _ in range(2):
        answer = await report(demo.http, f" {leaked['key']}\n")
        assert (answer.status_code, answer.json()) == (202, {"taken": True})
        assert (await bearer.call("GET", "/v1/whoami")).json()["code"] == "key_revoked"
    published = (await platform.registry.publisher.all_keys())[leaked["kid"]]
    assert (KeyRecord.model_validate(published.value).revoked, published.version) == (True, 2)
    events = (await demo.call("GET", "/v1/events?follow=false")).text
    assert events.count("key.leaked") == 2  # the event's name and its type, once
    assert made["kid"] in events.split("key.leaked", 1)[1]
    key = api_keys.parse(leaked["key"])
    assert key is not None
    assert key.secret not in events
    assert key.secret not in (await demo.call("GET", "/v1/audit")).text


async def test_a_report_tells_nothing_about_the_key(demo: Caller) -> None:
    good = await demo.ok("POST", "/v1/keys", json={"scopes": ["infer:*"]})
    wrong = api_keys.complete(f"mrg_live_{good['kid']}{'0' * 32}")
    answers = []
    for text in (wrong, api_keys.mint().text, "nonsense", good["key"]):
        started = time.monotonic()
        answer = await report(demo.http, text)
        assert time.monotonic() - started >= ANSWER_S
        answers.append((answer.status_code, answer.content, sorted(answer.headers)))
    assert len(set(map(str, answers))) == 1
    held = await demo.ok("GET", f"/v1/keys/{good['kid']}")
    assert held["revoked_at"] is not None


async def test_a_wrong_secret_revokes_nothing(demo: Caller) -> None:
    good = await demo.ok("POST", "/v1/keys", json={"scopes": ["infer:*"]})
    await report(demo.http, api_keys.complete(f"mrg_live_{good['kid']}{'0' * 32}"))
    assert (await demo.ok("GET", f"/v1/keys/{good['kid']}"))["revoked_at"] is None


async def test_reports_beyond_the_bound_are_refused_with_when_to_come_back(platform: Platform) -> None:
    rates = platform.registry.leaks.rates
    now = platform.registry.clock()
    while rates.take("127.0.0.1", now) == 0:
        pass
    answer = await report(platform.operator.http, "nonsense")
    assert (answer.status_code, answer.json()["code"]) == (429, "too_many_reports")
    assert 1 <= int(answer.headers["retry-after"]) <= AN_ADDRESS.each_s


def test_an_address_and_all_together_have_a_bound_and_a_network_of_ipv6_is_one_address() -> None:
    rates, now = ReportRates(), 1_700_000_000.0
    assert [rates.take("192.0.2.1", now) for _ in range(AN_ADDRESS.burst)] == [0.0] * AN_ADDRESS.burst
    assert 0 < rates.take("192.0.2.1", now) <= AN_ADDRESS.each_s
    assert rates.take("192.0.2.1", now + AN_ADDRESS.each_s) == 0
    for number in range(AN_ADDRESS.burst):
        assert rates.take(f"2001:db8::{number:x}", now) == 0
    assert rates.take("2001:db8::ffff", now) > 0
    assert rates.take("2001:db8:0:1::1", now) == 0

    rates = ReportRates()
    taken = sum(rates.take(f"10.0.{n // 256}.{n % 256}", now) == 0 for n in range(1000))
    assert taken == ALL_TOGETHER.burst
    assert rates.take("10.1.0.0", now + ALL_TOGETHER.each_s) == 0


def test_addresses_remembered_are_bounded() -> None:
    rates, now = ReportRates(), 1_700_000_000.0
    for number in range(20_000):
        rates.take(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", now + number)
    assert len(rates._addresses) == 10_000


def at(told: Any) -> float:
    return datetime.fromisoformat(told).timestamp()


async def test_a_call_to_the_registry_notes_when_its_key_was_last_used_once_a_minute(
    platform: Platform, demo: Caller
) -> None:
    uses = platform.registry.uses
    made = await demo.ok("POST", "/v1/keys", json={"scopes": ["infer:*"]})
    path = f"/v1/keys/{made['kid']}"
    await uses.write()
    assert (await demo.ok("GET", path))["last_used_at"] is None
    await Caller(demo.http, demo.tenant, made["key"]).ok("GET", "/v1/whoami")
    await uses.write()
    first = (await demo.ok("GET", path))["last_used_at"]
    assert abs(at(first) - platform.registry.clock()) < 30
    for later, told in ((USED_EACH_S / 2, at(first)), (USED_EACH_S + 1, at(first) + USED_EACH_S + 1)):
        uses.note(made["kid"], at(first) + later)
        await uses.write()
        assert abs(at((await demo.ok("GET", path))["last_used_at"]) - told) < 0.01
    assert (await demo.ok("GET", path))["created_at"] == made["created_at"]


async def test_usage_that_is_counted_notes_when_its_key_was_last_used(platform: Platform, demo: Caller) -> None:
    made = await demo.ok("POST", "/v1/keys", json={"scopes": ["infer:*"]})
    registry = platform.registry
    now = registry.clock()
    hour = int(now) // 3600 * 3600
    uses = KeyUses(registry.db)
    consumer = UsageConsumer(
        registry.db, None, registry.clock, lambda *_: None, uses.note_all  # type: ignore[arg-type]
    )  # fmt: skip

    def chunk(n: int, hour: int) -> UsageChunk:
        place = {"tenant": demo.tenant, "model": "m", "version": 1, "kid": made["kid"], "hour": hour, "requests": 1}
        return UsageChunk(router="r", boot=boot, n=n, rows=[UsageRow.model_validate(place)])

    boot = secrets.token_hex(4)
    for n, hours, told in ((0, hour - 7200, hour - 3600), (1, hour, now)):
        await consumer.take_in([chunk(n, hours)])
        await uses.write()
        held = await demo.ok("GET", f"/v1/keys/{made['kid']}")
        assert abs(at(held["last_used_at"]) - told) < 30
