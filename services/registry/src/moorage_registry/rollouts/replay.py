"""Judging again what a rollout saw: under its own policy, which must give the same bits, or under another one."""

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
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
from moorage_registry.rollouts.repository import PAGE, RolloutRepository
from moorage_registry.rollouts.tables import RolloutEntryRow, RolloutRow

ENTRIES_MOST = 200_000
"""Of one replay: some 18 hours of three routers' batches."""
WAITING_MOST = 16
OF_A_TENANT = 2
"""So that one tenant does not keep the others waiting for good."""


@dataclass
class Replay:
    """A log folded again, page by page. Pure, and long: not for an event loop.

    `bits` are the stored digests of the evidence, by the entry that it was of.
    """

    judge: Judge
    bits: Mapping[int, Collection[str]]
    entries: int = 0
    is_same: bool = True
    failures: dict[str, ReplayedFailure] = field(default_factory=dict)

    def fold(self, page: Sequence[RolloutEntryRow]) -> None:
        """The next entries."""
        for one in page:
            self.judge.fold(parse_entry(one.kind, one.entry))
            self.entries += 1
            failure = self.judge.failure()
            if failure is not None and failure.signal not in self.failures:
                self.failures[failure.signal] = ReplayedFailure(
                    seq=one.seq, at=one.at, signal=failure.signal, action=failure.action, sentence=failure.sentence
                )
            stored = self.bits.get(one.seq, ())
            if stored:
                now = chain.bits(chain.plain(self.judge.evidence().told()))
                self.is_same = self.is_same and all(each == now for each in stored)


def stored_bits(row: RolloutRow) -> dict[int, set[str]]:
    """The digest of the last evidence, by the entry that it was of."""
    return {row.outlook["seq"]: {row.outlook["bits"]}} if "bits" in row.outlook else {}


@dataclass
class Replays:
    """One replay at a time, each in a thread, so that others are answered meanwhile."""

    db: Database
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _waiting: Counter[str] = field(default_factory=Counter)

    async def of(self, tenant: TenantId, model: str, rollout: str, policy: RolloutPolicy | None) -> Replayed:
        """Raises NotFound; Conflict where the log is gone or too long; OverQuota where too many wait."""
        if self._waiting.total() >= WAITING_MOST or self._waiting[tenant] >= OF_A_TENANT:
            message = f"{self._waiting.total()} replays wait for their turn; ask again after those"
            raise OverQuota(message, code="too_many_replays", retry_after_s=5)
        self._waiting[tenant] += 1
        try:
            async with self._turn:
                return await self._replay(tenant, model, rollout, policy)
        finally:
            self._waiting[tenant] -= 1
            self._waiting += Counter()  # those that wait for none are forgotten

    async def _replay(self, tenant: TenantId, model: str, rollout: str, policy: RolloutPolicy | None) -> Replayed:
        async with self.db.read() as session:
            row = await RolloutReader(session, tenant).row(model, rollout)
            bits = stored_bits(row)
            async for verdict in RolloutRepository(session).all_verdicts(row.id):
                bits.setdefault(verdict.seq, set()).add(verdict.detail["bits"])
        if row.seq > ENTRIES_MOST:
            message = (
                f"the log of {row.id} has {row.seq:,} entries and at most {ENTRIES_MOST:,} are replayed here; "
                "read it with GET .../log"
            )
            raise Conflict(message, code="log_too_long")
        under = policy or RolloutPolicy.model_validate(row.policy)
        run = Replay(Judge(under, row.stable, row.candidate), bits)
        while run.entries < row.seq:
            async with self.db.read() as session:
                page = await RolloutRepository(session).entries(row.id, run.entries, min(PAGE, row.seq - run.entries))
            if not page:
                message = f"what {row.id} saw is kept for 30 days after its end, and is gone; its verdicts are kept"
                raise Conflict(message, code="log_gone")
            await asyncio.to_thread(run.fold, page)
        return Replayed(
            same=run.is_same,
            entries=run.entries,
            policy_hash=chain.digest(under.model_dump(mode="json")),
            evidence=chain.plain(run.judge.evidence().told()),
            stored=row.outlook.get("evidence", {}),
            failures=list(run.failures.values()),
        )
