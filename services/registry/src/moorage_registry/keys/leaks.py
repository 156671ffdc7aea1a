"""Keys that were seen where they should not be: whoever holds the text may report it, and the key is revoked at once.

A report is answered alike, and after the same time, whether there is such a key or not, so that it tells nothing.
"""

import asyncio
import contextlib
from dataclasses import dataclass, field
from ipaddress import IPv6Address

import structlog

from moorage_common import api_keys
from moorage_common.contracts.names import TenantId
from moorage_common.errors import Conflict, NotFound, OverQuota
from moorage_common.networks import address_in
from moorage_registry.keys.repository import KeyRepository
from moorage_registry.keys.service import KeyService
from moorage_registry.work import Works

log = structlog.get_logger()

ACTOR = "leak-report"
ANSWER_S = 0.2
"""A report is answered no sooner: longer than it takes to revoke a key."""
_ADDRESSES = 10_000


@dataclass(frozen=True)
class Bound:
    """So many at once, then one each `each_s`."""

    burst: int
    each_s: float

    def wait_s(self, full_at: float, now: float) -> float:
        """Until one more is within the bound, by the generic cell rate algorithm (ITU-T I.371); 0 for at once."""
        return max(0.0, full_at - now - (self.burst - 1) * self.each_s)


AN_ADDRESS = Bound(burst=10, each_s=6.0)
ALL_TOGETHER = Bound(burst=100, each_s=0.25)


@dataclass
class ReportRates:
    """How often reports are taken: of one address, and of all. An IPv6 caller is its /64."""

    _all: float = 0.0
    _addresses: dict[str, float] = field(default_factory=dict)

    def take(self, address: str, now: float) -> float:
        """0 and count it, or the seconds to wait."""
        place = _place(address)
        held = self._addresses.get(place, 0.0)
        wait_s = max(AN_ADDRESS.wait_s(held, now), ALL_TOGETHER.wait_s(self._all, now))
        if wait_s > 0:
            return wait_s
        self._addresses.pop(place, None)
        if len(self._addresses) >= _ADDRESSES:
            del self._addresses[next(iter(self._addresses))]
        self._addresses[place] = max(held, now) + AN_ADDRESS.each_s
        self._all = max(self._all, now) + ALL_TOGETHER.each_s
        return 0.0


def _place(address: str) -> str:
    found = address_in(address)
    return str(int(found) >> 64) if isinstance(found, IPv6Address) else address


@dataclass
class Leaks:
    works: Works
    pepper: str
    rates: ReportRates = field(default_factory=ReportRates)

    async def report(self, text: str, address: str) -> None:
        """Revoke the key `text`, if there is one. Raises OverQuota."""
        wait_s = self.rates.take(address, self.works.clock())
        if wait_s > 0:
            message = "too many reports of leaked keys from here; send the rest later"
            raise OverQuota(message, code="too_many_reports", retry_after_s=wait_s)
        await asyncio.gather(self._revoke(text.strip()), asyncio.sleep(ANSWER_S))

    async def _revoke(self, text: str) -> None:
        key = api_keys.parse(text)
        if key is None:
            return
        async with self.works.db.read() as session:
            found = await KeyRepository(session).bearer(key.kid)
        row = found[0] if found is not None else None
        if not api_keys.matches(self.pepper, key, row.digest if row is not None else None) or row is None:
            return
        # A key or tenant that is deleted meanwhile is no reason to answer otherwise.
        with contextlib.suppress(NotFound, Conflict):
            async with self.works.begin(TenantId(row.tenant), ACTOR) as work:
                await KeyService(work, self.pepper).leaked(key.kid)
        log.warning("leaked key revoked", kid=key.kid, tenant=row.tenant)
