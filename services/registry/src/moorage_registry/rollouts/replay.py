"""Judging again what a rollout saw: under its own policy, which must give the same bits, or under another one."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from moorage_common.contracts.names import TenantId
from moorage_common.contracts.rollouts import RolloutPolicy
from moorage_common.db import Database
from moorage_common.errors import Conflict, OverQuota
from moorage_registry.rollouts import chain
from moorage_registry.rollouts.entries import parse_entry
from moorage_registry.rollouts.judge import Judge
from moorage_registry.rollouts.models import Replayed, ReplayedFailure
from moorage_registry.rollouts.reading import RolloutReader
from moorage_registry.rollouts.repository import RolloutRepository
from moorage_registry.rollouts.tables import RolloutEntryRow, RolloutRow

ENTRIES_MOST = 200_000
"""Of one replay: some 18 hours of three routers' batches."""
WAITING_MOST = 8


@dataclass(frozen=True)
class Log:
    """What a rollout saw and what was stored of it: `bits` of the evidence by the entry it was of."""

    row: RolloutRow
    entries: Sequence[RolloutEntryRow]
    bits: Mapping[int, Sequence[str]]


def replay(log: Log, policy: RolloutPolicy) -> Replayed:
    """Fold the whole log under `policy`. Pure, and long: not for an event loop."""
    judge = Judge(policy, log.row.stable, log.row.candidate)
    failures: dict[str, ReplayedFailure] = {}
    is_same = True
    for one in log.entries:
        judge.fold(parse_entry(one.kind, one.entry))
        failure = judge.failure()
        if failure is not None and failure.signal not in failures:
            failures[failure.signal] = ReplayedFailure(
                seq=one.seq, at=one.at, signal=failure.signal, action=failure.action, sentence=failure.sentence
            )
        stored = log.bits.get(one.seq)
        if stored:
            now = chain.bits(chain.plain(judge.evidence().told()))
            is_same = is_same and all(each == now for each in stored)
    return Replayed(
        same=is_same,
        entries=len(log.entries),
        policy_hash=chain.digest(policy.model_dump(mode="json")),
        evidence=chain.plain(judge.evidence().told()),
        stored=log.row.outlook.get("evidence", {}),
        failures=list(failures.values()),
    )


@dataclass
class Replays:
    """One replay at a time, each in a thread, so that others are answered meanwhile."""

    db: Database
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _waiting: int = 0

    async def of(self, tenant: TenantId, model: str, rollout: str, policy: RolloutPolicy | None) -> Replayed:
        """Raises NotFound; Conflict where the log is gone or too long; OverQuota where too many wait."""
        if self._waiting >= WAITING_MOST:
            message = f"{self._waiting} replays wait for their turn; ask again after those"
            raise OverQuota(message, code="too_many_replays", retry_after_s=5)
        self._waiting += 1
        try:
            async with self._turn:
                log = await self._log(tenant, model, rollout)
                return await asyncio.to_thread(replay, log, policy or RolloutPolicy.model_validate(log.row.policy))
        finally:
            self._waiting -= 1

    async def _log(self, tenant: TenantId, model: str, rollout: str) -> Log:
        async with self.db.read() as session:
            row = await RolloutReader(session, tenant).row(model, rollout)
            rows = RolloutRepository(session)
            if row.seq > ENTRIES_MOST:
                message = (
                    f"the log of {row.id} has {row.seq:,} entries and at most {ENTRIES_MOST:,} are replayed here; "
                    "read it with GET .../log"
                )
                raise Conflict(message, code="log_too_long")
            entries = await rows.entries(row.id, 0, ENTRIES_MOST)
            verdicts = await rows.verdicts(row.id)
        if len(entries) < row.seq:
            message = f"what rollout {row.id} saw is kept for 30 days after its end, and is gone; its verdicts are kept"
            raise Conflict(message, code="log_gone")
        bits: dict[int, list[str]] = {}
        for verdict in verdicts:
            bits.setdefault(verdict.seq, []).append(verdict.detail["bits"])
        if "bits" in row.outlook:
            bits.setdefault(row.outlook["seq"], []).append(row.outlook["bits"])
        return Log(row, entries, bits)
