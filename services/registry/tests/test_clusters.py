"""What operators want of nodes, and what schedulers are asked, over a real bus."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from nats.aio.msg import Msg

from moorage_common.bus import Bus
from moorage_common.contracts.cluster import ClusterIntent, SchedulerAnswer, SchedulerAsk, packed_parts
from moorage_common.contracts.names import BUCKET_CLUSTERS, scheduler_subject
from moorage_common.errors import OverQuota
from moorage_common.kv import BucketReader
from moorage_registry.clusters.turns import QUESTIONS_MOST, Turns
from moorage_registry.testing import Caller, Json, Platform, eventually

NODES = {"nodes": [{"name": "n1", "devices": [{"device": 0, "free_milli": 500}]}, {"name": "n2"}]}


class LeadingScheduler:
    """Answers what it is told to answer, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[SchedulerAsk] = []
        self.answer: Callable[[SchedulerAsk], SchedulerAnswer] = lambda _ask: SchedulerAnswer(answer=NODES)

    async def take(self, message: Msg) -> None:
        self.asked.append(SchedulerAsk.model_validate_json(message.data))
        await message.respond(self.answer(self.asked[-1]).model_dump_json().encode())


@pytest.fixture
async def scheduler(bus: Bus) -> AsyncIterator[LeadingScheduler]:
    leading = LeadingScheduler()
    subscription = await bus.client.subscribe(scheduler_subject("default"), cb=leading.take)
    await bus.client.flush()
    yield leading
    await subscription.unsubscribe()


@pytest.fixture
async def intents(bus: Bus) -> AsyncIterator[Callable[[], Json]]:
    reader = BucketReader(bus, BUCKET_CLUSTERS, lambda _key, _entry: None)
    task = asyncio.create_task(reader.run())
    yield lambda: {key: entry.value for key, entry in reader.entries.items()}
    task.cancel()
    while not task.done():
        await asyncio.wait([task], timeout=0.2)
        task.cancel()


def impatient(platform: Platform) -> None:
    """Have the registry wait no longer than a test can bear."""
    registry = platform.registry
    quick = dataclasses.replace(registry.schedulers, timeout_s=0.3)
    object.__setattr__(registry, "schedulers", quick)


async def test_a_silent_scheduler_is_said_with_when_to_ask_again(platform: Platform, demo: Caller) -> None:
    impatient(platform)
    for path in ("/v1/gpus", "/v1/quota"):
        answer = await demo.call("GET", path)
        assert (answer.status_code, answer.json()["code"]) == (503, "scheduler_silent")
        assert answer.headers["retry-after"] == "3"


async def test_a_scheduler_that_hangs_is_waited_for_only_so_long(platform: Platform, demo: Caller, bus: Bus) -> None:
    impatient(platform)

    async def hang(_message: Msg) -> None: ...

    subscription = await bus.client.subscribe(scheduler_subject("default"), cb=hang)
    await bus.client.flush()
    answer = await demo.call("GET", "/v1/quota")
    await subscription.unsubscribe()
    assert (answer.status_code, answer.json()["code"]) == (503, "scheduler_silent")


async def test_a_tenants_question_names_the_tenant_and_an_operators_none(
    platform: Platform, demo: Caller, scheduler: LeadingScheduler
) -> None:
    await demo.push("digits", b"one")
    await demo.ok("PUT", "/v1/deployments/digits", json={"versions": [{"version": 1}]})
    await demo.ok("GET", "/v1/gpus")
    await demo.ok("GET", "/v1/quota")
    scheduler.answer = lambda _ask: SchedulerAnswer(answer={"model": "digits", "versions": [{"version": 1}]})
    explained = await demo.ok("GET", "/v1/deployments/digits/explain")
    assert explained["versions"][0]["version"] == 1
    assert [(a.what, a.tenant) for a in scheduler.asked] == [
        ("nodes", demo.tenant),
        ("shares", demo.tenant),
        ("explain", demo.tenant),
    ]
    scheduler.answer = lambda _ask: SchedulerAnswer(answer=NODES)
    assert (await platform.operator.ok("GET", "/v1/nodes"))["nodes"][0]["devices"][0]["free_milli"] == 500
    await platform.operator.ok("GET", "/v1/quota")
    await platform.operator.ok("GET", "/v1/quota", headers={"moorage-tenant": demo.tenant})
    assert [a.tenant for a in scheduler.asked[3:]] == ["", "", demo.tenant]
    assert (await demo.call("GET", "/v1/deployments/letters/explain")).status_code == 404


async def test_a_refusal_of_the_scheduler_is_its_own_sentence(platform: Platform, scheduler: LeadingScheduler) -> None:
    scheduler.answer = lambda _ask: SchedulerAnswer(error="a defragmentation runs; wait until it is done")
    answer = await platform.operator.call("POST", "/v1/cluster/defragment")
    assert (answer.status_code, answer.json()["code"]) == (409, "scheduler_refused")
    assert answer.json()["error"] == "a defragmentation runs; wait until it is done"


async def test_an_answer_in_parts_comes_whole(platform: Platform, scheduler: LeadingScheduler) -> None:
    state: Json = {"held": [{"id": f"r{number}", "milli": number} for number in range(2000)]}
    parts = packed_parts(state, 1000)
    assert len(parts) > 3
    scheduler.answer = lambda ask: SchedulerAnswer(packed=parts[ask.part], parts=len(parts), take="t")
    assert await platform.operator.ok("GET", "/v1/cluster/state") == state
    assert [(a.part, a.take) for a in scheduler.asked[:3]] == [(0, ""), (1, "t"), (2, "t")]
    scheduler.answer = lambda ask: SchedulerAnswer(packed=parts[0], parts=1)
    answer = await platform.operator.call("GET", "/v1/cluster/state")
    assert (answer.status_code, answer.json()["code"]) == (503, "scheduler_silent")


async def test_a_drained_node_is_published_and_audited_once(
    platform: Platform, scheduler: LeadingScheduler, intents: Callable[[], Json]
) -> None:
    operator = platform.operator
    for _ in range(2):
        assert (await operator.ok("PUT", "/v1/nodes/n2/drain"))["drained"] == ["n2"]
    await operator.ok("PUT", "/v1/nodes/n1/drain")

    async def published(*nodes: str) -> bool:
        wanted = ClusterIntent(cluster="default", drained=list(nodes)).model_dump()
        return intents().get("default") == wanted

    await eventually(lambda: published("n1", "n2"))
    for _ in range(2):
        assert (await operator.ok("DELETE", "/v1/nodes/n2/drain"))["drained"] == ["n1"]
    await eventually(lambda: published("n1"))
    entries: list[Json] = (await operator.ok("GET", "/v1/audit"))["entries"]
    actions = [(entry["action"], entry["target"]) for entry in entries if entry["action"].startswith("node.")]
    assert sorted(actions) == [
        ("node.drained", "clusters/default/nodes/n1"),
        ("node.drained", "clusters/default/nodes/n2"),
        ("node.undrained", "clusters/default/nodes/n2"),
    ]


async def test_a_node_that_the_cluster_has_not_is_refused_where_the_scheduler_can_say_so(
    platform: Platform, scheduler: LeadingScheduler
) -> None:
    answer = await platform.operator.call("PUT", "/v1/nodes/n3/drain")
    assert (answer.status_code, answer.json()["code"]) == (404, "node_not_found")
    assert "it has n1, n2" in answer.json()["error"]


async def test_a_node_can_be_drained_while_the_scheduler_is_away(
    platform: Platform, intents: Callable[[], Json]
) -> None:
    impatient(platform)
    assert (await platform.operator.ok("PUT", "/v1/nodes/n3/drain"))["drained"] == ["n3"]


async def test_drains_at_once_lose_none(platform: Platform) -> None:
    impatient(platform)
    names = [f"n{number}" for number in range(5)]
    await asyncio.gather(*(platform.operator.ok("PUT", f"/v1/nodes/{name}/drain") for name in names))
    assert (await platform.operator.ok("DELETE", "/v1/nodes/none/drain"))["drained"] == names


async def test_only_a_defragmentation_that_is_carried_out_is_audited(
    platform: Platform, scheduler: LeadingScheduler
) -> None:
    scheduler.answer = lambda ask: SchedulerAnswer(answer={"ordered": not ask.dry_run, "moves": []})
    await platform.operator.ok("POST", "/v1/cluster/defragment?dry_run=true")
    await platform.operator.ok("POST", "/v1/cluster/defragment")

    async def audited() -> list[Any]:
        entries = (await platform.operator.ok("GET", "/v1/audit"))["entries"]
        return [entry for entry in entries if entry["action"] == "cluster.defragmented"]

    assert len(await audited()) == 1
    assert [ask.dry_run for ask in scheduler.asked] == [True, False]


async def test_questions_of_a_tenant_take_turns_and_those_of_others_do_not_wait_for_them() -> None:
    turns, first, end = Turns(), asyncio.Event(), asyncio.Event()
    began: list[str] = []

    async def ask(tenant: str, *, until: asyncio.Event | None = None) -> None:
        async with turns.of(tenant):
            began.append(tenant)
            first.set()
            if until is not None:
                await until.wait()

    questions = [asyncio.create_task(ask("flood", until=end)) for _ in range(QUESTIONS_MOST)]
    await first.wait()
    with pytest.raises(OverQuota) as refused:
        await ask("flood")
    assert (refused.value.code, refused.value.status) == ("too_many_questions", 429)
    await ask("calm")
    assert began == ["flood", "calm"]

    end.set()
    await asyncio.gather(*questions)
    await ask("flood")
    assert began.count("flood") == QUESTIONS_MOST + 1, "and may ask again"


async def test_a_tenant_that_floods_the_scheduler_is_refused_and_operators_are_answered(
    platform: Platform, demo: Caller, scheduler: LeadingScheduler
) -> None:
    calls = [demo.call("GET", "/v1/gpus") for _ in range(3 * QUESTIONS_MOST)]
    answers = await asyncio.gather(*calls, platform.operator.call("GET", "/v1/nodes"))
    codes = [answer.status_code for answer in answers]
    assert codes.pop() == 200
    assert set(codes) == {200, 429}
    assert codes.count(200) >= QUESTIONS_MOST
