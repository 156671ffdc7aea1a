"""Events: committed with what caused them, published at least once whatever NATS does, followed in commit order."""

import asyncio
import json

import nats.js.errors

from moorage_common.bus import Bus
from moorage_common.contracts.names import STREAM_EVENTS
from moorage_common.outbox import Relay
from moorage_common.testing.servers import Server
from moorage_registry.testing import Caller, Platform, eventually


async def published(bus: Bus) -> dict[str, str]:
    """Type by id of every event in the stream."""
    js = bus.jetstream()
    try:
        state = (await js.stream_info(STREAM_EVENTS)).state
    except nats.js.errors.NotFoundError:
        return {}
    found = {}
    for number in range(state.first_seq, state.last_seq + 1):
        event = json.loads((await js.get_msg(STREAM_EVENTS, number)).data or b"")
        found[event["id"]] = event["type"]
    return found


async def stored(caller: Caller) -> list[str]:
    text = (await caller.call("GET", "/v1/events?follow=false")).text
    return [line.removeprefix("id: ") for line in text.splitlines() if line.startswith("id: ")]


async def test_no_event_is_lost_when_nats_is_killed_between(
    own_platform: Platform, own_bus: Bus, own_nats: Server
) -> None:
    demo = await own_platform.tenant()
    relay = Relay(own_platform.registry.db, own_bus)

    async def relayed() -> bool:
        return await relay.backlog() == 0

    await eventually(relayed)
    own_nats.kill()
    for n in range(5):
        await demo.push("digits", b"weights %d" % n)
    assert await relay.backlog() == 5
    await asyncio.to_thread(own_nats.start)
    await eventually(relayed, 30)
    ids = set(await stored(demo))
    assert len(ids) == 7

    async def all_there() -> bool:
        return ids <= (await published(own_bus)).keys()

    await eventually(all_there, 30)


async def test_a_stream_that_was_deleted_is_made_again(own_platform: Platform, own_bus: Bus) -> None:
    demo = await own_platform.tenant()

    async def count() -> bool:
        return len(await published(own_bus)) >= 2

    await eventually(count)
    await own_bus.jetstream().delete_stream(STREAM_EVENTS)
    await demo.push("digits", b"weights")

    async def pushed() -> bool:
        return "version.uploaded" in (await published(own_bus)).values()

    await eventually(pushed)


async def test_a_refused_change_leaves_neither_event_nor_audit(demo: Caller) -> None:
    before = await stored(demo)
    audited = await demo.ok("GET", "/v1/audit")
    answer = await demo.call("PUT", "/v1/deployments/none", json={"versions": [{"version": 1}]})
    assert answer.status_code == 404
    assert await stored(demo) == before
    assert await demo.ok("GET", "/v1/audit") == audited


async def test_every_change_names_who_made_it(demo: Caller) -> None:
    await demo.push("digits", b"weights")
    kid = (await demo.ok("GET", "/v1/whoami"))["kid"]
    entries = (await demo.ok("GET", "/v1/audit"))["entries"]
    assert [(e["action"], e["actor"]) for e in entries][:2] == [("version.uploaded", kid), ("artifact.stored", kid)]
    page = await demo.ok("GET", "/v1/audit", params={"limit": 1, "before": entries[0]["id"]})
    assert [e["action"] for e in page["entries"]] == ["artifact.stored"]


async def test_following_goes_on_after_the_last_event_seen(demo: Caller) -> None:
    first, *rest = await stored(demo)
    answer = await demo.call("GET", "/v1/events?follow=false", headers={"last-event-id": first})
    ids = [line.removeprefix("id: ") for line in answer.text.splitlines() if line.startswith("id: ")]
    assert ids == rest
    answer = await demo.call("GET", "/v1/events?follow=false", headers={"last-event-id": "never-seen"})
    assert (answer.status_code, answer.json()["code"]) == (400, "unknown_event")


async def test_concurrent_changes_are_followed_in_commit_order_without_gaps(demo: Caller) -> None:
    seen: list[str] = []

    async def follow() -> None:
        while len(seen) < 14:
            headers = {"last-event-id": seen[-1]} if seen else {}
            text = (await demo.call("GET", "/v1/events?follow=false", headers=headers)).text
            seen.extend(line.removeprefix("id: ") for line in text.splitlines() if line.startswith("id: "))

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(follow())
        for n in range(12):
            group.create_task(demo.push(f"model-{n}", b"weights"))
    assert seen == await stored(demo)
