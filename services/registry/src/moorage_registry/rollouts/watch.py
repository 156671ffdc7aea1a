"""One rollout in the memory of the registry that moves it: its judge, what it has read, what is not written yet."""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from sqlalchemy.ext.asyncio import AsyncSession

from moorage_common.contracts.desired import Status
from moorage_common.contracts.names import TenantId
from moorage_common.contracts.rollouts import FINAL, RolloutPolicy
from moorage_common.contracts.signals import SignalBatch
from moorage_registry.feedback.tables import LabelRow
from moorage_registry.rollouts.capacity import Capacity
from moorage_registry.rollouts.entries import BASELINE, BatchEntry, Entry, Label, LabelsEntry, parse_entry
from moorage_registry.rollouts.facts import CRASH_WINDOW_S, Restarts, restarts_of
from moorage_registry.rollouts.judge import Judge
from moorage_registry.rollouts.repository import PAGE, RolloutRepository
from moorage_registry.rollouts.tables import RolloutEntryRow, RolloutRow

INBOX_MOST = 10_000
"""Batches kept of one rollout while the database is away; what comes after is lost, which costs evidence alone."""
LOAD_SAMPLES = 10

_LARGEST = 2**31
_BUCKETS = 10_000
_KEYS = 2**63

Taken = Literal["taken", "again", "foreign", "too_many"]


@dataclass(frozen=True)
class Seen:
    """An entry that was judged and is not written yet."""

    at: float
    entry: Entry


@dataclass
class Watch:
    """`seq` is the last entry that was judged and is in the database; those of `pending` were judged after it.

    While `busy`, batches wait in the inbox: their order in the log is settled by who holds the transaction.
    """

    row: RolloutRow
    policy: RolloutPolicy
    judge: Judge
    seq: int
    reads: dict[tuple[str, str], int]
    settled_to: int
    restarts: dict[int, Restarts] = field(default_factory=dict)
    pending: list[Seen] = field(default_factory=list)
    inbox: list[SignalBatch] = field(default_factory=list)
    in_flight: deque[int] = field(default_factory=lambda: deque(maxlen=LOAD_SAMPLES))
    room_lacked_at: float = 0.0
    busy: bool = False
    again: bool = False
    missing: int = 0

    @property
    def tenant(self) -> TenantId:
        return TenantId(self.row.tenant)

    @property
    def is_over(self) -> bool:
        return self.row.state in FINAL

    @property
    def capacity(self) -> Capacity:
        return Capacity.model_validate(self.row.capacity)

    def is_behind(self, row: RolloutRow) -> bool:
        """Whether somebody else moved it since: `row` is what the database has now."""
        return (row.seq, row.verdicts) != (self.seq, self.row.verdicts)

    def offer(self, batch: SignalBatch) -> Taken:
        """Keep a batch that has not been read yet."""
        row = self.row
        parties = (batch.tenant, batch.model, batch.stable.version, batch.candidate.version)
        if parties != (row.tenant, row.model, row.stable, row.candidate) or not makes_sense(batch):
            return "foreign"
        place = (batch.router, batch.boot)
        last = self.reads.get(place, 0)
        if batch.seq <= last:
            return "again"
        if len(self.inbox) + len(self.pending) >= INBOX_MOST:
            return "too_many"
        self.missing += batch.seq - last - 1
        self.reads[place] = batch.seq
        self.inbox.append(batch)
        return "taken"

    def drain(self, now: float) -> bool:
        """Judge what has come. Whether a signal crossed that had not before."""
        if self.busy:
            return False
        before = self.judge.failure()
        batches, self.inbox = self.inbox, []
        for batch in batches:
            self.see(BatchEntry(batch=batch), now)
        failure = self.judge.failure()
        return failure is not None and (before is None or before.signal != failure.signal)

    def see(self, entry: Entry, now: float) -> None:
        self.judge.fold(entry)
        self.pending.append(Seen(now, entry))

    def see_labels(self, labels: list[LabelRow], now: float) -> None:
        """Judge labels in their order. Stable's from before the start count until there is a candidate to compare."""
        row = self.row
        if not labels:
            return
        self.settled_to = labels[-1].settled
        kept = [
            label_of(one, row)
            for one in labels
            if one.version in (row.stable, row.candidate)
            and (one.answered_at >= row.started_at or (one.version == row.stable and row.step == BASELINE))
        ]
        if kept:
            self.see(LabelsEntry(labels=kept, settled_to=self.settled_to), now)

    def look(self, status: Status, in_flight: int, now: float) -> dict[int, int]:
        """Restarts of each version's hosts within the last minutes, this report counted."""
        self.in_flight.append(in_flight)
        found = {}
        for version in (self.row.stable, self.row.candidate):
            if version not in self.restarts:
                known = dict(self.capacity.restarts_before)
                if now - self.row.started_at > CRASH_WINDOW_S:
                    known |= restarts_of(status, [version])
                self.restarts[version] = Restarts(known)
            hosts = [one for one in status.replicas if one.version == version]
            found[version] = self.restarts[version].look(hosts, now)
        return found

    def written(self, row: RolloutRow, *, entries: int) -> None:
        """The first `entries` of those pending are in the database, and `row` with them."""
        self.row = row
        self.pending = self.pending[entries:]
        self.seq = row.seq


def makes_sense(batch: SignalBatch) -> bool:
    """Whether its counts could be: what is judged and kept for good is not taken on trust."""
    for arm in (batch.stable, batch.candidate):
        for host in arm.hosts:
            slow = host.slow
            if not 0 <= host.bad <= host.requests < _LARGEST or not all(_is_count(count) for count in slow.values()):
                return False
            if not all(0 <= bucket < _BUCKETS for bucket in slow):
                return False
        if not all(_is_count(count) for count in arm.predictions.classes.values()):
            return False
        if not all(0 <= key < _KEYS for key in arm.bad_keys):
            return False
        if not all(math.isfinite(number) for number in arm.predictions.numbers):
            return False
    return 0 < batch.seq < _LARGEST


def _is_count(count: int) -> bool:
    return 0 <= count < _LARGEST


def label_of(row: LabelRow, rollout: RolloutRow) -> Label:
    is_paired = row.other_version in (rollout.stable, rollout.candidate)
    return Label(
        version=row.version,
        wrong=row.wrong,
        loss=row.loss,
        other_wrong=row.other_wrong if is_paired else None,
        other_loss=row.other_loss if is_paired else None,
    )


async def load(
    session: AsyncSession, row: RolloutRow, unwritten: list[SignalBatch], goes_on: Callable[[], bool] = lambda: True
) -> Watch:
    """The rollout as its rows say it was judged, and then what is in nobody's rows yet.

    Args:
        goes_on: asked from page to page; once it says no, what there is by then is given back.
        unwritten: batches that another watch of it had read; those that were written meanwhile are dropped.
    """
    rows = RolloutRepository(session)
    policy = RolloutPolicy.model_validate(row.policy)
    watch = Watch(
        row=row,
        policy=policy,
        judge=Judge(policy, row.stable, row.candidate),
        seq=0,
        reads=await rows.reads(row.id),
        settled_to=Capacity.model_validate(row.capacity).settled_from,
    )
    await catch_up(session, watch, row, goes_on)
    for batch in unwritten:
        watch.offer(batch)
    return watch


async def catch_up(
    session: AsyncSession, watch: Watch, row: RolloutRow, goes_on: Callable[[], bool] = lambda: True
) -> None:
    """Judge the entries that are in the database and not in memory; nothing may be pending."""
    rows = RolloutRepository(session)
    while watch.seq < row.seq and goes_on():
        page = await rows.entries(row.id, watch.seq, PAGE)
        if not page:
            break
        session.expunge_all()
        # In a thread, since it is long, and others are answered meanwhile.
        await asyncio.to_thread(_fold, watch, page)
    watch.row = row


def _fold(watch: Watch, page: Sequence[RolloutEntryRow]) -> None:
    for one in page:
        entry = parse_entry(one.kind, one.entry)
        watch.judge.fold(entry)
        if isinstance(entry, LabelsEntry):
            watch.settled_to = max(watch.settled_to, entry.settled_to)
        watch.seq = one.seq
