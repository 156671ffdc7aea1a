"""Rows of the usage ledger."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, case, delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from moorage_common.contracts.names import TenantId
from moorage_common.contracts.usage import UsageChunk, UsageRow
from moorage_common.db import insert_into
from moorage_registry.usage.models import Group
from moorage_registry.usage.tables import BootRow, ChunkRow, UsageSumRow

SUMS = ("requests", "errors", "rows", "bytes_in", "bytes_out", "busy_us")
_PLACE = ("tenant", "model", "version", "kid", "hour")
_ROWS_A_STATEMENT = 500
_COLUMNS: dict[Group, Any] = {
    "model": UsageSumRow.model,
    "version": UsageSumRow.version,
    "key": UsageSumRow.kid,
    "hour": UsageSumRow.hour,
}


@dataclass(frozen=True, slots=True)
class BootCount:
    """What the ledger holds of one router's boot; numbers run without gaps, so fewer than `expected` is a loss."""

    router: str
    boot: str
    held: int
    expected: int


class LedgerRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def claim(self, chunks: Sequence[UsageChunk], now: float) -> set[str]:
        """Note the chunks as counted; the ids of those that were not before."""
        rows = [{"chunk_id": chunk.chunk_id, "received_at": now} for chunk in chunks]
        insert = insert_into(self._session, ChunkRow).values(rows).on_conflict_do_nothing()
        return set(await self._session.scalars(insert.returning(ChunkRow.chunk_id)))

    async def add(self, rows: Iterable[UsageRow]) -> None:
        """Add to the sums, in the order of their keys, so that two registries never wait for each other."""
        sums: dict[tuple[Any, ...], list[int]] = {}
        for row in rows:
            place = tuple(getattr(row, name) for name in _PLACE)
            held = sums.setdefault(place, [0] * len(SUMS))
            for index, name in enumerate(SUMS):
                held[index] += getattr(row, name)
        values = [dict(zip((*_PLACE, *SUMS), (*place, *sums[place]), strict=True)) for place in sorted(sums)]
        for start in range(0, len(values), _ROWS_A_STATEMENT):
            insert = insert_into(self._session, UsageSumRow).values(values[start : start + _ROWS_A_STATEMENT])
            await self._session.execute(
                insert.on_conflict_do_update(
                    index_elements=list(_PLACE),
                    set_={name: getattr(UsageSumRow, name) + getattr(insert.excluded, name) for name in SUMS},
                )
            )

    async def count(self, chunks: Iterable[UsageChunk]) -> list[BootCount]:
        """Add newly counted chunks to their boots; how complete those are now."""
        numbers: dict[tuple[str, str], list[int]] = {}
        for chunk in chunks:
            numbers.setdefault((chunk.router, chunk.boot), []).append(chunk.n)
        counts = []
        for (router, boot), held in sorted(numbers.items()):
            row = {"router": router, "boot": boot, "held": len(held), "highest": max(held)}
            insert = insert_into(self._session, BootRow).values(row)
            highest = case((BootRow.highest > insert.excluded.highest, BootRow.highest), else_=insert.excluded.highest)
            upsert = insert.on_conflict_do_update(
                index_elements=["router", "boot"],
                set_={"held": BootRow.held + insert.excluded.held, "highest": highest},
            )
            found = await self._session.execute(upsert.returning(BootRow.held, BootRow.highest))
            total, top = found.one()
            counts.append(BootCount(router, boot, total, top + 1))
        return counts

    async def forget(self, before: float) -> None:
        """Drop the ids of chunks counted before then: the stream no longer holds them."""
        await self._session.execute(delete(ChunkRow).where(ChunkRow.received_at < before))

    async def sums(
        self, tenant: TenantId, by: Sequence[Group], start: float | None, end: float | None
    ) -> list[dict[str, int | str]]:
        """Sums of the tenant by group, for hours that begin in [start, end)."""
        columns = [_COLUMNS[group].label(group) for group in by]
        totals: list[ColumnElement[Any]] = [func.sum(getattr(UsageSumRow, name)).label(f"sum_{name}") for name in SUMS]
        query = select(*columns, *totals).where(UsageSumRow.tenant == tenant)
        if start is not None:
            query = query.where(UsageSumRow.hour >= start)
        if end is not None:
            query = query.where(UsageSumRow.hour < end)
        groups = [_COLUMNS[group] for group in by]
        query = query.group_by(*groups).order_by(*groups)
        found = await self._session.execute(query)
        lines = []
        for row in found.mappings():
            line: dict[str, int | str] = {group: row[group] for group in by}
            line.update({name: int(row[f"sum_{name}"] or 0) for name in SUMS})
            lines.append(line)
        return lines
