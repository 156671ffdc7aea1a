"""Rows of rollouts, of what they saw and of what was decided."""

from collections.abc import AsyncIterator, Sequence

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from moorage_common.contracts.names import TenantId
from moorage_common.db import insert_into
from moorage_registry.feedback.tables import LabelRow
from moorage_registry.rollouts.tables import MOVING, RolloutEntryRow, RolloutReadRow, RolloutRow, RolloutVerdictRow

PAGE = 500
VERDICTS_A_PAGE = 50


class RolloutRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def add(self, row: RolloutRow | RolloutEntryRow | RolloutVerdictRow) -> None:
        self._session.add(row)

    async def flush(self) -> None:
        await self._session.flush()

    async def get(self, tenant: TenantId, model: str, rollout: str) -> RolloutRow | None:
        """One of the model's, as it is in the database now."""
        query = select(RolloutRow).where(RolloutRow.tenant == tenant, RolloutRow.model == model)
        return await self._session.scalar(query.where(RolloutRow.id == rollout))

    async def page(self, tenant: TenantId, model: str, limit: int) -> Sequence[RolloutRow]:
        """Newest first."""
        query = select(RolloutRow).where(RolloutRow.tenant == tenant, RolloutRow.model == model)
        query = query.order_by(RolloutRow.started_at.desc(), RolloutRow.id.desc()).limit(limit)
        return (await self._session.scalars(query)).all()

    async def last(self, tenant: TenantId, model: str) -> RolloutRow | None:
        """The one that runs, else the last one: none starts before the one before is final."""
        found = await self.page(tenant, model, 1)
        return found[0] if found else None

    async def leaving(self, tenant: TenantId, model: str) -> RolloutRow | None:
        """The final one whose loser is still part of the deployment."""
        query = select(RolloutRow).where(RolloutRow.tenant == tenant, RolloutRow.model == model)
        return await self._session.scalar(query.where(RolloutRow.leaves_at.is_not(None)))

    async def forget_leaving(self, tenant: TenantId, model: str) -> None:
        """Whoever says what the deployment is now has the last word on what it holds."""
        change = update(RolloutRow).where(RolloutRow.tenant == tenant, RolloutRow.model == model)
        await self._session.execute(change.where(RolloutRow.leaves_at.is_not(None)).values(leaves_at=None))

    async def moving(self) -> Sequence[RolloutRow]:
        """Of every tenant: those that are not final, or whose loser has yet to leave."""
        return (await self._session.scalars(select(RolloutRow).where(MOVING).order_by(RolloutRow.id))).all()

    async def entries(self, rollout: str, after: int, limit: int = PAGE) -> Sequence[RolloutEntryRow]:
        """In the order they were judged, after the number `after`."""
        query = select(RolloutEntryRow).where(RolloutEntryRow.rollout == rollout, RolloutEntryRow.seq > after)
        return (await self._session.scalars(query.order_by(RolloutEntryRow.seq).limit(limit))).all()

    async def verdicts(self, rollout: str, after: int, limit: int) -> Sequence[RolloutVerdictRow]:
        """By number, after the number `after`."""
        query = select(RolloutVerdictRow).where(RolloutVerdictRow.rollout == rollout, RolloutVerdictRow.number > after)
        return (await self._session.scalars(query.order_by(RolloutVerdictRow.number).limit(limit))).all()

    async def all_verdicts(self, rollout: str) -> AsyncIterator[RolloutVerdictRow]:
        """By number, a few in memory at a time: each holds all the evidence there was."""
        last = 0
        while page := await self.verdicts(rollout, last, VERDICTS_A_PAGE):
            for one in page:
                yield one
                self._session.expunge(one)
            last = page[-1].number

    async def reads(self, rollout: str) -> dict[tuple[str, str], int]:
        """By router and boot, the number of the last batch that was judged."""
        rows = await self._session.scalars(select(RolloutReadRow).where(RolloutReadRow.rollout == rollout))
        return {(row.router, row.boot): row.seq for row in rows}

    async def note_read(self, rollout: str, router: str, boot: str, seq: int) -> None:
        values = {"rollout": rollout, "router": router, "boot": boot, "seq": seq}
        insert = insert_into(self._session, RolloutReadRow).values(values)
        place = [RolloutReadRow.rollout, RolloutReadRow.router, RolloutReadRow.boot]
        await self._session.execute(insert.on_conflict_do_update(index_elements=place, set_={"seq": seq}))

    async def labels(self, tenant: TenantId, model: str, after: int, limit: int = PAGE) -> Sequence[LabelRow]:
        """Settled after the number `after`, in the order of settling."""
        query = select(LabelRow).where(LabelRow.tenant == tenant, LabelRow.model == model, LabelRow.settled > after)
        return (await self._session.scalars(query.order_by(LabelRow.settled).limit(limit))).all()

    async def label_delays(self, tenant: TenantId, model: str, count: int) -> list[float]:
        """How long the last `count` labels of the model took, seconds."""
        query = select(LabelRow.at - LabelRow.answered_at)
        query = query.where(LabelRow.tenant == tenant, LabelRow.model == model, LabelRow.settled > 0)
        return list(await self._session.scalars(query.order_by(LabelRow.settled.desc()).limit(count)))

    async def settled_before(self, tenant: TenantId, model: str, count: int) -> int:
        """The number after which `count` labels of the model are settled by now; 0 where there are fewer."""
        query = select(LabelRow.settled).where(LabelRow.tenant == tenant, LabelRow.model == model)
        query = query.where(LabelRow.settled > 0).order_by(LabelRow.settled.desc()).offset(count).limit(1)
        return int(await self._session.scalar(query) or 0)

    async def purge(self, finished_before: float, limit: int = 20) -> int:
        """Drop what rollouts saw that were final by then; their verdicts stay. How many rollouts that were."""
        has_entries = select(RolloutEntryRow.rollout).where(RolloutEntryRow.rollout == RolloutRow.id).exists()
        query = select(RolloutRow.id).where(RolloutRow.finished_at < finished_before, has_entries).limit(limit)
        old = list(await self._session.scalars(query))
        for table in (RolloutEntryRow, RolloutReadRow):
            await self._session.execute(delete(table).where(table.rollout.in_(old)))
        return len(old)
