"""Which registry moves rollouts: a row with a holder, a fencing number and an end, in the database they all share.

Clocks decide only when somebody else may try. That the one before is out is known by the fencing number, which every
transaction of a holder checks: one that was stopped and goes on writes nothing.
"""

import asyncio
from dataclasses import dataclass, field

from sqlalchemy import Update, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from moorage_common.clock import Clock
from moorage_common.contracts.request_id import new_ulid
from moorage_common.db import Database, insert_into
from moorage_registry.rollouts.tables import ControllerLeaseRow

LEASE_S = 4.0
RENEW_S = 1.0
NAME = "rollouts"


class LeaseLost(Exception):
    """Another registry moves rollouts now."""


@dataclass
class Lease:
    """One process's hold of the lease. `fencing` is None while it has none."""

    db: Database
    clock: Clock
    name: str = NAME
    holder: str = field(default_factory=new_ulid)
    fencing: int | None = None
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def keep(self) -> bool:
        """Take the lease where nobody holds it, renew it where it is held here. Whether it is held."""
        async with self._turn, self.db.write() as session:
            if self.fencing is not None and not await self._renew(session):
                self.fencing = None
            if self.fencing is None:
                self.fencing = await self._take(session)
        return self.fencing is not None

    async def release(self) -> None:
        """Let another take it at once."""
        async with self._turn:
            fencing, self.fencing = self.fencing, None
            if fencing is None:
                return
            async with self.db.write() as session:
                await session.execute(self._mine(fencing).values(expires_at=0.0))

    async def check(self, session: AsyncSession) -> None:
        """Hold the lease's row until the transaction ends. Raises LeaseLost."""
        query = select(ControllerLeaseRow).where(ControllerLeaseRow.name == self.name)
        row = await session.scalar(query.with_for_update(read=True))
        if self.fencing is None or row is None or (row.holder, row.fencing) != (self.holder, self.fencing):
            self.fencing = None
            raise LeaseLost(self.name)

    def _mine(self, fencing: int) -> Update:
        change = update(ControllerLeaseRow).where(ControllerLeaseRow.name == self.name)
        return change.where(ControllerLeaseRow.holder == self.holder, ControllerLeaseRow.fencing == fencing)

    async def _renew(self, session: AsyncSession) -> bool:
        assert self.fencing is not None  # noqa: S101 - asked only of a holder
        change = self._mine(self.fencing).values(expires_at=self.clock() + LEASE_S)
        return await session.scalar(change.returning(ControllerLeaseRow.fencing)) is not None

    async def _take(self, session: AsyncSession) -> int | None:
        """Its new fencing number, or None where another holds it."""
        now = self.clock()
        none = {"name": self.name, "holder": "", "fencing": 0, "expires_at": 0.0}
        await session.execute(insert_into(session, ControllerLeaseRow).values(none).on_conflict_do_nothing())
        held = await session.get_one(ControllerLeaseRow, self.name)
        if held.expires_at > now:
            return None
        change = update(ControllerLeaseRow).where(
            ControllerLeaseRow.name == self.name, ControllerLeaseRow.expires_at <= now
        )
        change = change.values(holder=self.holder, fencing=ControllerLeaseRow.fencing + 1, expires_at=now + LEASE_S)
        return await session.scalar(change.returning(ControllerLeaseRow.fencing))
