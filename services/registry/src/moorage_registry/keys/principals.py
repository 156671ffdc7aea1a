"""Who asks: the bearer of a key, found out from the database at each call."""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from moorage_common import api_keys
from moorage_common.contracts.keys import Rate
from moorage_common.contracts.names import TenantId
from moorage_common.errors import Unauthenticated
from moorage_common.key_table import not_from_here, not_served
from moorage_common.networks import Networks
from moorage_registry.keys.grants import Grant
from moorage_registry.keys.repository import KeyRepository
from moorage_registry.keys.scopes import ADMIN
from moorage_registry.keys.tables import KeyRow

PLATFORM = TenantId("platform")
"""The operators' own tenant: the only one whose keys may be platform:admin."""


@dataclass(frozen=True)
class Principal:
    """Who asks, and for which tenant: the key's own, or the one an operator acts for.

    Attributes:
        subject: the person whose session key it is; empty for API keys.
    """

    tenant: TenantId
    kid: str
    scopes: tuple[str, ...]
    cidrs: tuple[str, ...] = ()
    rate: Rate | None = None
    expires_at: float | None = None
    subject: str = ""

    @property
    def is_admin(self) -> bool:
        return ADMIN in self.scopes

    def may(self, scope: str) -> bool:
        return scope in self.scopes or self.is_admin

    @property
    def grant(self) -> Grant:
        """What keys that it makes have at most. A person's authority is the membership, which outlasts a session."""
        return Grant(self.scopes, self.cidrs, self.rate, None if self.subject else self.expires_at)


async def authenticate(session: AsyncSession, pepper: str, text: str, now: float, address: str = "") -> Principal:
    """The bearer of the key `text`, who called from `address` ("" where that is not known).

    Raises Unauthenticated; Forbidden where its tenant is not active, or the key is for other networks.
    """
    key = api_keys.parse(text)
    if key is None:
        raise Unauthenticated("this is not a Moorage API key; check that it was copied whole", code="key_malformed")
    found = await KeyRepository(session).bearer(key.kid)
    row, status = found if found is not None else (None, "")
    if not api_keys.matches(pepper, key, row.digest if row is not None else None) or row is None:
        raise Unauthenticated("this API key is not known; ask your administrator for a new one", code="key_unknown")
    if row.revoked_at is not None:
        raise Unauthenticated("this API key was revoked; ask your administrator for a new one", code="key_revoked")
    if row.expires_at is not None and row.expires_at <= now:
        raise Unauthenticated("this API key has expired; ask your administrator for a new one", code="key_expired")
    if row.not_before > now:
        raise Unauthenticated("this API key is not valid yet", code="key_not_yet_valid")
    if row.cidrs and not Networks(row.cidrs).hold(address):
        raise not_from_here(address)
    if status != "active":
        raise not_served(status)
    return principal_of(row)


def principal_of(row: KeyRow) -> Principal:
    return Principal(
        TenantId(row.tenant), row.kid, tuple(row.scopes), tuple(row.cidrs), rate_of(row), row.expires_at, row.subject
    )


def rate_of(row: KeyRow) -> Rate | None:
    return Rate.model_validate(row.rate) if row.rate is not None else None
