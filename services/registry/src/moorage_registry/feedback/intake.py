"""Taking in answers and labels: streams OUTPUTS and FEEDBACK, each counted once, in whatever order the two come.

A label waits for its answer, and settles when both are there. Numbers of settled labels grow without a gap and are
shown in order, so a rollout reads those above the last it has seen. Labels are in no log: they are people's data.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog
from nats.aio.msg import Msg
from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from moorage_common.bus import Bus
from moorage_common.clock import Clock
from moorage_common.contracts.feedback import AnsweredOutput, Feedback, FeedbackChunk, Output, OutputsChunk
from moorage_common.contracts.names import STREAM_FEEDBACK, STREAM_OUTPUTS
from moorage_common.contracts.request_id import ulid_time_s
from moorage_common.contracts.rollouts import FeedbackPolicy
from moorage_common.db import Database
from moorage_common.streams import FEEDBACK_SUBJECTS, OUTPUTS_SUBJECTS, ensure_feedback, ensure_outputs
from moorage_registry.feedback.repository import FeedbackRepository, KeptOutput, Key, Place
from moorage_registry.feedback.settling import Settled, label_text, settle, told
from moorage_registry.feedback.tables import FeedbackCountRow, LabelRow
from moorage_registry.pulling import Pulling
from moorage_registry.tenants.repository import TenantRepository

log = structlog.get_logger()

Item = TypeVar("Item", Feedback, AnsweredOutput)

LABELS_CONSUMER = "registry-labels"
OUTPUTS_CONSUMER = "registry-outputs"
MESSAGES = 32
ITEMS = 1000
"""In one transaction: SQLite lets nobody else write meanwhile."""
LABELS_LONGER_S = 30 * 86_400.0
"""Labels stay for so much longer than answers, so that one sent again is still known."""
_PURGE_EACH_S = 60.0
_USUAL = FeedbackPolicy()
_LARGEST = 2**62


@dataclass(frozen=True)
class FeedbackIntake:
    """Takes in what routers send.

    Attributes:
        most_outputs: answers kept a tenant, and half as many as the labels; the oldest go first.
        on_taken: told how many labels, answers or unreadable items were taken, by one of these words.
    """

    db: Database
    bus: Bus
    clock: Clock
    most_outputs: int
    on_taken: Callable[[str, int], None]

    def tasks(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """What must run for as long as the registry does, by name."""
        labels = Pulling(
            self.bus, STREAM_FEEDBACK, FEEDBACK_SUBJECTS, LABELS_CONSUMER, ensure_feedback, self._labels_came,
            batch=MESSAGES,
        )  # fmt: skip
        outputs = Pulling(
            self.bus, STREAM_OUTPUTS, OUTPUTS_SUBJECTS, OUTPUTS_CONSUMER, ensure_outputs, self._outputs_came,
            batch=MESSAGES,
        )  # fmt: skip
        return {"feedback-labels": labels.run, "feedback-outputs": outputs.run, "feedback-purge": self._purging}

    async def _labels_came(self, messages: Sequence[Msg]) -> None:
        read: list[Feedback] = []
        for message in messages:
            try:
                read += FeedbackChunk.model_validate_json(message.data).feedback
            except ValidationError as error:
                self._unreadable(message, error)
        await self.take_labels(read)
        await _acknowledge(messages)

    async def _outputs_came(self, messages: Sequence[Msg]) -> None:
        read: list[AnsweredOutput] = []
        for message in messages:
            try:
                read += OutputsChunk.model_validate_json(message.data).outputs
            except ValidationError as error:
                self._unreadable(message, error)
        await self.take_outputs(read)
        await _acknowledge(messages)

    def _unreadable(self, message: Msg, error: ValidationError) -> None:
        log.error("unreadable feedback dropped", subject=message.subject, errors=error.error_count())
        self.on_taken("unreadable", 1)

    async def take_labels(self, feedback: Sequence[Feedback]) -> None:
        """Take labels; of several for one answer the first, ever, counts."""
        storable = [one for one in feedback if _is_storable(one, str(one.label))]
        self.on_taken("unreadable", len(feedback) - len(storable))
        for start in range(0, len(storable), ITEMS):
            async with self.db.write() as session:
                rows = FeedbackRepository(session)
                await rows.lock()
                part = await _of_open_tenants(session, storable[start : start + ITEMS])
                taken = await _take_labels(rows, part)
                await _trim_labels(rows, {one.tenant for one in part}, 2 * self.most_outputs)
            self.on_taken("labels", taken)

    async def take_outputs(self, outputs: Sequence[AnsweredOutput]) -> None:
        """Keep answers, and settle the labels that waited for them."""
        storable = [one for one in outputs if _is_storable(one, _values(one))]
        self.on_taken("unreadable", len(outputs) - len(storable))
        for start in range(0, len(storable), ITEMS):
            async with self.db.write() as session:
                rows = FeedbackRepository(session)
                await rows.lock()
                part = await _of_open_tenants(session, storable[start : start + ITEMS])
                taken = await _take_outputs(rows, part)
                await _trim_outputs(rows, {one.tenant for one in part}, self.most_outputs)
            self.on_taken("outputs", taken)

    async def _purging(self) -> None:
        while True:
            await self.purge()
            await asyncio.sleep(_PURGE_EACH_S)

    async def purge(self) -> None:
        """Drop answers beyond their deployment's horizon and labels long beyond it, in short transactions."""
        for tenant, model in await self._purgeable():
            while await self._purge_some(tenant, model):
                pass

    async def _purgeable(self) -> list[Place]:
        """Models that have something to drop: the others are no reason for a transaction that writes."""
        async with self.db.read() as session:
            rows = FeedbackRepository(session)
            found = []
            for count in await rows.all_counts():
                place = count.tenant, count.model
                before = self.clock() - (await rows.policy(*place) or _USUAL).keep_for_s
                is_due = await rows.outputs_before(*place, before, 1)
                if is_due or await rows.labels_before(*place, before - LABELS_LONGER_S, 1):
                    found.append(place)
            return found

    async def _purge_some(self, tenant: str, model: str) -> bool:
        """Whether there may be more."""
        async with self.db.write() as session:
            rows = FeedbackRepository(session)
            await rows.lock()
            policy = await rows.policy(tenant, model) or _USUAL
            count = (await rows.counts([(tenant, model)]))[tenant, model]
            before = self.clock() - policy.keep_for_s
            outputs = await rows.outputs_before(tenant, model, before, ITEMS)
            await rows.drop_outputs(tenant, [ulid for ulid, _ in outputs])
            count.outputs -= len(outputs)
            labels = await rows.labels_before(tenant, model, before - LABELS_LONGER_S, ITEMS)
            await _drop_labels(rows, labels, {(tenant, model): count})
            return ITEMS in (len(outputs), len(labels))


async def _acknowledge(messages: Sequence[Msg]) -> None:
    """After the commit: a crash between the two costs nothing."""
    for message in messages:
        await message.ack()


def _values(one: AnsweredOutput) -> str:
    return one.output.value + ("" if one.other is None else one.other.value)


async def _of_open_tenants(session: AsyncSession, items: Sequence[Item]) -> list[Item]:
    """Without those of tenants that are being deleted: nothing of theirs comes back."""
    closed = await TenantRepository(session).closed_among({one.tenant for one in items})
    return [one for one in items if one.tenant not in closed]


def _is_storable(one: Feedback | AnsweredOutput, value: str) -> bool:
    """Whether both databases can hold it: Postgres has no NUL in texts and no numbers beyond 64 bits."""
    numbers = [one.version, *([one.other_version or 0] if isinstance(one, AnsweredOutput) else [])]
    texts = (one.tenant, one.model, one.ulid, value)
    return all(0 <= number < _LARGEST for number in numbers) and not any("\0" in text for text in texts)


@dataclass(frozen=True)
class _Places:
    """Counts and policies of the models that one transaction is about."""

    counts: dict[Place, FeedbackCountRow]
    policies: dict[Place, FeedbackPolicy] = field(default_factory=dict)

    @classmethod
    async def of(cls, rows: FeedbackRepository, places: set[Place]) -> "_Places":
        policies = {place: await rows.policy(*place) or _USUAL for place in places}
        return cls(await rows.counts(places), policies)

    def number(self, place: Place) -> int:
        """The next settled label's."""
        self.counts[place].settled += 1
        return self.counts[place].settled


async def _take_labels(rows: FeedbackRepository, feedback: Sequence[Feedback]) -> int:
    """How many of them are new."""
    first: dict[Key, Feedback] = {}
    for one in feedback:
        first.setdefault((one.tenant, one.ulid), one)
    known = await rows.labelled(first)
    new = {key: one for key, one in first.items() if key not in known}
    outputs = await rows.outputs([key for key, one in new.items() if one.label is not None])
    places = await _Places.of(rows, {(one.tenant, one.model) for one in new.values()})
    values = []
    for key, one in new.items():
        place = one.tenant, one.model
        settled, output = told(one), outputs.get(key)
        if one.label is not None and output is not None:
            settled = settle(places.policies[place], label_text(one.label), *_answers(output))
        values.append(_label_values(one, settled, output, places.number(place) if settled is not None else 0))
        places.counts[place].labels += 1
    await rows.add_labels(values)
    return len(new)


def _answers(row: KeptOutput) -> tuple[Output, Output | None]:
    """The answer, and the other version's."""
    other = None if row.other_value is None else Output.model_validate({"kind": row.kind, "value": row.other_value})
    return Output.model_validate({"kind": row.kind, "value": row.value}), other


def _label_values(one: Feedback, settled: Settled | None, output: KeptOutput | None, number: int) -> dict[str, Any]:
    try:
        answered_at = ulid_time_s(one.ulid)
    except ValueError:
        answered_at = one.at
    return {
        "tenant": one.tenant, "ulid": one.ulid, "model": one.model, "version": one.version,
        "answered_at": answered_at, "at": one.at, "label": None if one.label is None else label_text(one.label),
        "wrong": None if settled is None else settled.wrong, "loss": None if settled is None else settled.loss,
        "other_version": None if output is None else output.other_version,
        "other_wrong": None if settled is None else settled.other_wrong,
        "other_loss": None if settled is None else settled.other_loss, "settled": number,
    }  # fmt: skip


async def _take_outputs(rows: FeedbackRepository, outputs: Sequence[AnsweredOutput]) -> int:
    """How many of them are new."""
    new = await rows.add_outputs(outputs)
    by_key = {(one.tenant, one.ulid): one for one in reversed(outputs)}
    places = await _Places.of(rows, {(one.tenant, one.model) for one in outputs})
    for key in new:
        one = by_key[key]
        places.counts[one.tenant, one.model].outputs += 1
    for label in await rows.waiting(new):
        one = by_key[label.tenant, label.ulid]
        place = one.tenant, one.model
        settled = settle(places.policies[place], label.label or "", one.output, one.other)
        label.wrong, label.loss = settled.wrong, settled.loss
        label.other_wrong, label.other_loss = settled.other_wrong, settled.other_loss
        label.other_version = one.other_version
        label.settled = places.number(place)
    return len(new)


async def _trim_outputs(rows: FeedbackRepository, tenants: set[str], most: int) -> None:
    """Drop the oldest answers of tenants that have too many, at most as many as may have come in."""
    for tenant in sorted(tenants):
        excess = await rows.outputs_of_tenant(tenant) - most
        if excess > 0:
            dropped = await rows.oldest_outputs(tenant, min(excess, 2 * ITEMS))
            counts = await rows.counts({(tenant, model) for _, model in dropped})
            for _, model in dropped:
                counts[tenant, model].outputs -= 1
            await rows.drop_outputs(tenant, [ulid for ulid, _ in dropped])


async def _trim_labels(rows: FeedbackRepository, tenants: set[str], most: int) -> None:
    for tenant in sorted(tenants):
        excess = await rows.labels_of_tenant(tenant) - most
        if excess > 0:
            labels = await rows.oldest_labels(tenant, min(excess, 2 * ITEMS))
            await _drop_labels(rows, labels, await rows.counts({(row.tenant, row.model) for row in labels}))


async def _drop_labels(
    rows: FeedbackRepository, labels: Sequence[LabelRow], counts: dict[Place, FeedbackCountRow]
) -> None:
    for row in labels:
        count = counts[row.tenant, row.model]
        count.labels -= 1
        count.lost += not row.settled
    await rows.drop_labels(labels)
