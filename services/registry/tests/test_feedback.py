"""Labels and answers meet, whichever comes first and however often; numbers of settled labels are shown in order."""

import asyncio
import random
import secrets
import time
from collections.abc import Sequence
from typing import Any

import pytest
import structlog.testing
from sqlalchemy import select

from moorage_common.bus import BUS_ERRORS, Bus
from moorage_common.contracts.feedback import AnsweredOutput, Feedback, FeedbackChunk, Output, OutputsChunk
from moorage_common.contracts.names import STREAM_FEEDBACK, STREAM_OUTPUTS, feedback_subject, outputs_subject
from moorage_common.contracts.request_id import new_ulid
from moorage_common.db import Database
from moorage_common.testing.servers import Server
from moorage_registry.feedback.intake import LABELS_LONGER_S, FeedbackIntake
from moorage_registry.feedback.tables import FeedbackCountRow, LabelRow, OutputRow
from moorage_registry.testing import Caller, Platform, eventually

DAY_S = 86_400.0
YES, NO = Output(kind="class", value="yes"), Output(kind="class", value="no")


def answer(tenant: str, ulid: str, output: Output = YES, *, at: float = 1000.0, **more: Any) -> AnsweredOutput:
    place = {"tenant": tenant, "model": "digits", "version": 1}
    return AnsweredOutput.model_validate({**place, "ulid": ulid, "at": at, "output": output, **more})


def label(tenant: str, ulid: str, value: object = "yes", *, at: float = 2000.0, **more: Any) -> Feedback:
    place = {"tenant": tenant, "model": "digits", "version": 1}
    return Feedback.model_validate({**place, "ulid": ulid, "at": at, "label": value, **more})


def an_intake(platform: Platform, *, now: float = 3000.0, most: int = 1_000_000) -> FeedbackIntake:
    """The registry's own, at a time that stands still."""
    registry = platform.registry
    bus = Bus(platform.settings.nats_url.get_secret_value(), "unused")
    return FeedbackIntake(registry.db, bus, lambda: now, most, registry.metrics.feedback_taken)


async def labels_of(db: Database, tenant: str) -> dict[str, LabelRow]:
    async with db.read() as session:
        rows = await session.scalars(select(LabelRow).where(LabelRow.tenant == tenant))
        return {row.ulid: row for row in rows}


async def kept_of(db: Database, tenant: str) -> list[str]:
    async with db.read() as session:
        rows = await session.scalars(select(OutputRow.ulid).where(OutputRow.tenant == tenant).order_by(OutputRow.at))
        return list(rows)


async def count_of(db: Database, tenant: str, model: str = "digits") -> FeedbackCountRow:
    async with db.read() as session:
        return await session.get_one(FeedbackCountRow, (tenant, model))


async def send_labels(bus: Bus, labels: Sequence[Feedback]) -> None:
    chunk = FeedbackChunk(chunk_id=secrets.token_hex(8), feedback=list(labels))
    subject = feedback_subject(labels[0].tenant, labels[0].model)
    await bus.jetstream().publish(subject, chunk.model_dump_json().encode(), headers={"Nats-Msg-Id": chunk.chunk_id})


async def send_outputs(bus: Bus, outputs: Sequence[AnsweredOutput]) -> None:
    chunk = OutputsChunk(chunk_id=secrets.token_hex(8), outputs=list(outputs))
    subject, payload = outputs_subject("router-0"), chunk.model_dump_json().encode()
    await bus.jetstream().publish(subject, payload, headers={"Nats-Msg-Id": chunk.chunk_id})


async def streams_exist(bus: Bus) -> bool:
    try:
        for stream in (STREAM_FEEDBACK, STREAM_OUTPUTS):
            await bus.jetstream().stream_info(stream)
    except BUS_ERRORS:
        return False
    return True


async def until_settled(db: Database, tenant: str, count: int) -> dict[str, LabelRow]:
    async def settled() -> dict[str, LabelRow] | None:
        rows = await labels_of(db, tenant)
        return rows if sum(row.settled > 0 for row in rows.values()) == count else None

    rows: dict[str, LabelRow] = await eventually(settled, 30)
    assert sorted(row.settled for row in rows.values() if row.settled) == list(range(1, count + 1))
    return rows


async def deploy(caller: Caller, feedback: dict[str, Any] | None = None) -> None:
    version = await caller.push("digits", secrets.token_bytes(8))
    spec = {"versions": [{"version": version["version"]}], "feedback": feedback}
    await caller.ok("PUT", "/v1/deployments/digits", json=spec)


async def test_over_the_bus_labels_and_answers_meet_whichever_comes_first_and_each_counts_once(
    platform: Platform, demo: Caller, bus: Bus
) -> None:
    await eventually(lambda: streams_exist(bus))
    ulids = [new_ulid() for _ in range(60)]
    answers = [answer(demo.tenant, ulid, YES if place % 3 else NO) for place, ulid in enumerate(ulids)]
    labels = [label(demo.tenant, ulid) for ulid in ulids]
    for start in range(0, 60, 10):
        part = slice(start, start + 10)
        sends = [send_labels(bus, labels[part]), send_outputs(bus, answers[part])]
        for _ in range(2):
            random.Random(start).shuffle(sends)
        await asyncio.gather(*sends)
        await send_labels(bus, [label(demo.tenant, ulid, "another") for ulid in ulids[part]])
        await send_outputs(bus, answers[part])
    rows = await until_settled(platform.registry.db, demo.tenant, 60)
    assert [rows[ulid].wrong for ulid in ulids if rows[ulid].label == "yes"].count(True) > 0
    for place, ulid in enumerate(ulids):
        row = rows[ulid]
        expected = (YES if place % 3 else NO).value != row.label
        assert (row.wrong, row.loss, row.model, row.version) == (expected, None, "digits", 1)
    count = await count_of(platform.registry.db, demo.tenant)
    assert (count.settled, count.outputs, count.labels, count.lost) == (60, 60, 60, 0)
    state = (await bus.jetstream().stream_info(STREAM_FEEDBACK)).state
    assert state.messages == 0, "what was written down has left the stream"


async def test_a_label_that_came_first_waits_for_its_answer_and_the_first_label_ever_counts(
    platform: Platform, demo: Caller
) -> None:
    intake, db = an_intake(platform), platform.registry.db
    ulid, other = new_ulid(), new_ulid()
    await intake.take_labels([label(demo.tenant, ulid, "no"), label(demo.tenant, ulid, "yes")])
    await intake.take_labels([label(demo.tenant, ulid, "yes"), label(demo.tenant, other, None, correct=False)])
    waiting = (await labels_of(db, demo.tenant))[ulid]
    assert (waiting.settled, waiting.wrong, waiting.label) == (0, None, "no")
    await intake.take_outputs([answer(demo.tenant, ulid), answer(demo.tenant, ulid, NO)])
    rows = await labels_of(db, demo.tenant)
    assert (rows[other].settled, rows[other].wrong) == (1, True)
    assert (rows[ulid].settled, rows[ulid].wrong) == (2, True)
    await intake.take_outputs([answer(demo.tenant, ulid, NO)])
    await intake.take_labels([label(demo.tenant, ulid, "yes")])
    assert (await labels_of(db, demo.tenant))[ulid].wrong is True


async def test_what_a_caller_found_itself_settles_at_once_and_a_copys_answer_is_judged_by_the_same_label(
    platform: Platform, demo: Caller
) -> None:
    intake, db = an_intake(platform), platform.registry.db
    own, lost, paired, late = (new_ulid() for _ in range(4))
    await intake.take_labels(
        [
            label(demo.tenant, own, None, correct=True),
            label(demo.tenant, lost, None, loss=0.5),
            label(demo.tenant, late),
        ]
    )
    await intake.take_outputs([answer(demo.tenant, u, other_version=2, other=NO) for u in (paired, late)])
    await intake.take_labels([label(demo.tenant, paired)])
    rows = await labels_of(db, demo.tenant)
    assert (rows[own].wrong, rows[own].loss, rows[own].settled) == (False, None, 1)
    assert (rows[lost].wrong, rows[lost].loss, rows[lost].settled) == (None, 0.5, 2)
    for ulid in (paired, late):
        assert (rows[ulid].wrong, rows[ulid].other_version, rows[ulid].other_wrong) == (False, 2, True)


async def test_labels_are_compared_as_the_deployment_says(platform: Platform, demo: Caller) -> None:
    await deploy(demo, {"tolerance": 0.5, "kind": "number", "keep_for_s": 100.0})
    intake, db = an_intake(platform), platform.registry.db
    near, far, early = (new_ulid() for _ in range(3))
    await intake.take_labels([label(demo.tenant, early, 9)])
    number = Output(kind="number", value="2.25")
    await intake.take_outputs([answer(demo.tenant, ulid, number) for ulid in (near, far, early)])
    await intake.take_labels([label(demo.tenant, near, 2), label(demo.tenant, far, "3.5")])
    rows = await labels_of(db, demo.tenant)
    assert [(rows[ulid].wrong, rows[ulid].loss) for ulid in (near, far, early)] == [
        (False, 0.25), (True, 1.25), (True, 6.75),
    ]  # fmt: skip
    status = await demo.ok("GET", "/v1/deployments/digits/feedback")
    assert (status["policy"]["tolerance"], status["policy"]["kind"]) == (0.5, "number")
    assert status["versions"][0]["mean_loss"] == pytest.approx(2.75)


async def test_an_output_that_a_version_does_not_have_cannot_be_what_labels_are_about(demo: Caller) -> None:
    await deploy(demo, {"output": "y"})
    spec = {"versions": [{"version": 1}], "feedback": {"output": "label"}}
    refused = await demo.call("PUT", "/v1/deployments/digits", json=spec)
    assert (refused.status_code, refused.json()["code"]) == (422, "feedback_output_unknown")
    assert "version 1 has no output 'label'" in refused.json()["error"]
    assert "one of y" in refused.json()["error"]


async def test_a_deployment_tells_accuracy_by_version_delays_and_what_waits(platform: Platform, demo: Caller) -> None:
    await deploy(demo)
    nothing = await demo.ok("GET", "/v1/deployments/digits/feedback")
    assert (nothing["outputs"], nothing["settled"], nothing["versions"], nothing["delay_s"]) == (0, 0, [], None)
    assert nothing["policy"] is None
    intake, now = an_intake(platform), time.time()
    ulids = [new_ulid(int((now - 3 * DAY_S) * 1000)) for _ in range(20)]
    await intake.take_outputs(
        [answer(demo.tenant, ulid, NO if place < 3 else YES, version=1 + place % 2) for place, ulid in enumerate(ulids)]
    )
    await intake.take_labels(
        [label(demo.tenant, ulid, version=1 + place % 2, at=now) for place, ulid in enumerate(ulids)]
    )
    await intake.take_labels([label(demo.tenant, new_ulid(), at=now), label(demo.tenant, new_ulid(), at=now - 7200)])
    status = await demo.ok("GET", "/v1/deployments/digits/feedback")
    assert {name: status[name] for name in ("outputs", "labels", "settled", "waiting", "lost", "recent")} == {
        "outputs": 20, "labels": 22, "settled": 20, "waiting": 1, "lost": 1, "recent": 20,
    }  # fmt: skip
    assert [(one["version"], one["labels"], one["wrong"], one["accuracy"]) for one in status["versions"]] == [
        (1, 10, 2, 0.8), (2, 10, 1, 0.9),
    ]  # fmt: skip
    assert status["delay_s"]["p90"] == pytest.approx(3 * DAY_S, abs=1)


async def test_another_tenants_labels_and_answers_are_its_own(platform: Platform, demo: Caller) -> None:
    other, ulid, intake = await platform.tenant(), new_ulid(), an_intake(platform)
    await deploy(demo)
    await intake.take_outputs([answer(demo.tenant, ulid, YES), answer(other.tenant, ulid, NO)])
    await intake.take_labels([label(demo.tenant, ulid), label(other.tenant, ulid)])
    wrong = [(await labels_of(platform.registry.db, t))[ulid].wrong for t in (demo.tenant, other.tenant)]
    assert wrong == [False, True]
    assert (await demo.ok("GET", "/v1/deployments/digits/feedback"))["versions"][0]["accuracy"] == 1.0
    assert (await other.call("GET", "/v1/deployments/digits/feedback")).status_code == 404


async def test_what_cannot_be_read_or_stored_stops_nothing_and_is_not_logged(
    platform: Platform, demo: Caller, bus: Bus
) -> None:
    await eventually(lambda: streams_exist(bus))
    secret, good = "the-patient-has-it", new_ulid()
    bad = [
        label(demo.tenant, new_ulid(), f"{secret}\0"), label(demo.tenant, new_ulid(), version=2**70),
        label(demo.tenant, "no ulid", secret), label(demo.tenant, "u\0"),
    ]  # fmt: skip
    with structlog.testing.capture_logs() as logged:
        subject = feedback_subject(demo.tenant, "digits")
        for payload in (b"", b"not a chunk", b'{"chunk_id": "a", "feedback": [{"label": "%b"}]}' % secret.encode()):
            await bus.jetstream().publish(subject, payload)
        await bus.jetstream().publish(outputs_subject("router-0"), b'{"outputs": 1}')
        await send_labels(bus, [*bad, label(demo.tenant, good)])
        nul = Output(kind="class", value="\0")
        await send_outputs(
            bus,
            [
                answer(demo.tenant, new_ulid(), nul), answer(demo.tenant, new_ulid(), version=-1),
                answer(demo.tenant, new_ulid(), other_version=2**80, other=NO), answer(demo.tenant, good),
            ],
        )  # fmt: skip
        await until_settled(platform.registry.db, demo.tenant, 1)
    assert set(await labels_of(platform.registry.db, demo.tenant)) == {good, "no ulid"}
    assert await kept_of(platform.registry.db, demo.tenant) == [good]
    assert "unreadable feedback dropped" in {entry["event"] for entry in logged}
    assert secret not in str(logged)


async def test_nothing_is_lost_when_the_bus_was_killed_and_the_intake_goes_on_when_streams_were_wiped(
    own_platform: Platform, own_bus: Bus, own_nats: Server
) -> None:
    demo = await own_platform.tenant()
    await eventually(lambda: streams_exist(own_bus))
    ulids = [new_ulid() for _ in range(3)]

    async def sent(ulid: str) -> bool:
        try:
            await send_labels(own_bus, [label(demo.tenant, ulid)])
            await send_outputs(own_bus, [answer(demo.tenant, ulid)])
        except BUS_ERRORS:
            return False
        return True

    assert await sent(ulids[0])
    await asyncio.to_thread(own_nats.restart)
    await eventually(lambda: sent(ulids[1]))
    await until_settled(own_platform.registry.db, demo.tenant, 2)
    for stream in (STREAM_FEEDBACK, STREAM_OUTPUTS):
        await own_bus.jetstream().delete_stream(stream)
    await eventually(lambda: streams_exist(own_bus), 30)
    await eventually(lambda: sent(ulids[2]))
    await until_settled(own_platform.registry.db, demo.tenant, 3)


async def test_answers_go_when_their_horizon_has_passed_and_labels_long_after(platform: Platform, demo: Caller) -> None:
    await deploy(demo, {"keep_for_s": 100.0})
    db, start = platform.registry.db, 1_000_000.0
    old, new, waits = new_ulid(), new_ulid(), new_ulid()
    await an_intake(platform).take_outputs(
        [answer(demo.tenant, old, at=start), answer(demo.tenant, new, at=start + 90)]
    )
    await an_intake(platform).take_labels([label(demo.tenant, ulid, at=start) for ulid in (old, new, waits)])
    await an_intake(platform, now=start + 101).purge()
    assert await kept_of(db, demo.tenant) == [new]
    assert set(await labels_of(db, demo.tenant)) == {old, new, waits}
    count = await count_of(db, demo.tenant)
    assert (count.outputs, count.labels, count.lost, count.settled) == (1, 3, 0, 2)
    await an_intake(platform, now=start + 101 + LABELS_LONGER_S).purge()
    assert (await kept_of(db, demo.tenant), await labels_of(db, demo.tenant)) == ([], {})
    count = await count_of(db, demo.tenant)
    assert (count.outputs, count.labels, count.lost, count.settled) == (0, 0, 1, 2)
    later = new_ulid()
    await an_intake(platform).take_labels([label(demo.tenant, later, None, correct=True)])
    assert (await labels_of(db, demo.tenant))[later].settled == 3, "numbers go on where they were"


async def test_a_tenant_keeps_so_many_answers_and_the_oldest_go_first(platform: Platform, demo: Caller) -> None:
    db, other = platform.registry.db, await platform.tenant()
    intake = an_intake(platform, most=100)
    await intake.take_outputs([answer(other.tenant, new_ulid()) for _ in range(50)])
    ulids = [new_ulid(place) for place in range(350)]
    answers = [answer(demo.tenant, u, at=float(place), model=f"m{place % 3}") for place, u in enumerate(ulids)]
    for start in range(0, 350, 70):
        await intake.take_outputs(answers[start : start + 70])
        assert len(await kept_of(db, demo.tenant)) <= 100
    assert await kept_of(db, demo.tenant) == ulids[250:]
    assert sum([(await count_of(db, demo.tenant, f"m{n}")).outputs for n in range(3)]) == 100
    assert len(await kept_of(db, other.tenant)) == 50
    await intake.take_labels([label(demo.tenant, ulid) for ulid in ulids])
    assert set(await labels_of(db, demo.tenant)) == set(ulids[150:]), "and twice as many labels"
    count = await count_of(db, demo.tenant)
    assert (count.labels, count.lost, count.settled) == (200, 150, 100)


async def test_a_reader_that_has_seen_a_number_never_misses_one_below_it_while_several_registries_settle(
    platform: Platform, demo: Caller
) -> None:
    url = platform.settings.database_url.get_secret_value()
    databases = [Database.at(url) for _ in range(2)]
    bus = Bus("nats://127.0.0.1:1", "unused")
    intakes = [FeedbackIntake(db, bus, lambda: 1.0, 10**6, lambda _what, _count: None) for db in databases]
    ulids = [new_ulid() for _ in range(400)]
    rng = random.Random(5)
    work = [("labels", ulids[start : start + 20]) for start in range(0, 400, 20)]
    work += [("outputs", ulids[start : start + 20]) for start in range(0, 400, 20)]
    rng.shuffle(work)
    seen: list[int] = []

    async def settle(intake: FeedbackIntake) -> None:
        while work:
            what, part = work.pop()
            if what == "labels":
                await intake.take_labels([label(demo.tenant, ulid) for ulid in part])
            else:
                await intake.take_outputs([answer(demo.tenant, ulid) for ulid in part])

    async def read() -> None:
        """As a rollout does."""
        while len(seen) < 400:
            async with platform.registry.db.read() as session:
                query = select(LabelRow.settled).where(LabelRow.tenant == demo.tenant, LabelRow.settled > len(seen))
                found = list(await session.scalars(query.order_by(LabelRow.settled)))
            assert found == list(range(len(seen) + 1, len(seen) + 1 + len(found)))
            seen.extend(found)
            await asyncio.sleep(0)

    try:
        async with asyncio.timeout(60):
            await asyncio.gather(*(settle(intake) for intake in [*intakes, *intakes]), read())
    finally:
        for db in databases:
            await db.close()
    assert seen == list(range(1, 401))


async def test_a_thousand_labels_and_answers_are_taken_in_a_few_statements(platform: Platform, demo: Caller) -> None:
    intake = an_intake(platform)
    ulids = [new_ulid() for _ in range(2500)]
    await intake.take_outputs([answer(demo.tenant, ulid) for ulid in ulids])
    await intake.take_labels([label(demo.tenant, ulid) for ulid in ulids])
    count = await count_of(platform.registry.db, demo.tenant)
    assert (count.settled, count.outputs, count.labels) == (2500, 2500, 2500)
