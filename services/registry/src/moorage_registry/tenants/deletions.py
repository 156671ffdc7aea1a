"""What deletes tenants: of all registries the one that holds the lease goes through the steps, until all is gone."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog

from moorage_common.bus import BUS_ERRORS
from moorage_common.contracts.names import TenantId
from moorage_common.db import Database
from moorage_common.errors import MoorageError
from moorage_registry.rollouts.lease import RENEW_S, Lease
from moorage_registry.tenants.removal import Removal, Waits
from moorage_registry.tenants.repository import TenantRepository

log = structlog.get_logger()

DELETIONS_LEASE = "deletions"
_ROUND_S = 1.0
_SWEEP_S = 3600.0
_SWEPT_FOR_S = 31 * 86_400.0
"""Longer than any stream keeps what could still come of a tenant."""


@dataclass
class Deletions:
    """Deletes the tenants that are to be, one after the other."""

    db: Database
    removal: Removal
    lease: Lease
    _wanted: bool = False
    _awake: asyncio.Event = field(default_factory=asyncio.Event)

    def tasks(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """What must run for as long as the registry does, by name."""
        return {"deletions": self.run, "deletions-lease": self._keep_lease, "deletions-sweep": self._sweep_each_hour}

    def wake(self) -> None:
        """There is one to delete."""
        self._awake.set()

    async def run(self) -> None:
        """Look each second, or at once when woken, until cancelled."""
        while True:
            self._awake.clear()
            await self._round()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ROUND_S):
                    await self._awake.wait()

    async def _round(self) -> None:
        async with self.db.read() as session:
            names = [TenantId(row.name) for row in await TenantRepository(session).closed("deleting")]
        self._wanted = bool(names)
        if not names:
            await self.lease.release()
            return
        for name in names:
            if self.lease.fencing is None and not await self.lease.keep():
                return
            await self._remove(name)

    async def _remove(self, tenant: TenantId) -> None:
        waits_for = ""
        try:
            await self.removal(tenant, self._goes_on)
        except Waits as reason:
            waits_for = str(reason)
        except MoorageError as error:
            waits_for = error.message
        except BUS_ERRORS as error:
            log.warning("a tenant's deletion is tried again", tenant=tenant, error=str(error))
            waits_for = "something of the platform does not answer"
        except Exception:
            log.exception("a tenant's deletion failed and is tried again", tenant=tenant)
            waits_for = "something failed on our side"
        await self._note(tenant, waits_for)

    async def _note(self, tenant: TenantId, waits_for: str) -> None:
        """Have its status say why it does not go on."""
        async with self.db.read() as session:
            row = await TenantRepository(session).get(tenant)
        if row is None or row.deletion is None or row.deletion.get("waits_for") == waits_for:
            return
        async with self.db.write() as session:
            held = await TenantRepository(session).get(tenant, lock=True)
            if held is not None and held.status == "deleting":
                held.deletion = {**(held.deletion or {}), "waits_for": waits_for}

    def _goes_on(self) -> bool:
        return self.lease.fencing is not None

    async def _keep_lease(self) -> None:
        while True:
            if self._wanted:
                await self.lease.keep()
            await asyncio.sleep(RENEW_S)

    async def sweep(self) -> None:
        """Remove what came of tenants that were deleted in the last month, and their dead keys."""
        async with self.db.read() as session:
            rows = await TenantRepository(session).closed("deleted")
        since = self.removal.works.clock() - _SWEPT_FOR_S
        for row in rows:
            if row.deletion is not None and row.deletion["asked_at"] > since:
                await self.removal.sweep(TenantId(row.name), lambda: True)

    async def _sweep_each_hour(self) -> None:
        while True:
            await self.sweep()
            await asyncio.sleep(_SWEEP_S)
