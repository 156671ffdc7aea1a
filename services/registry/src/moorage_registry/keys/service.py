"""Minting, revoking and verifying API keys."""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from moorage_common import api_keys
from moorage_common.contracts.names import TenantId
from moorage_common.errors import Forbidden, NotFound, Unauthenticated, Unprocessable
from moorage_registry.keys.models import CreatedKey, KeyInfo, NewKey
from moorage_registry.keys.repository import KeyRepository
from moorage_registry.keys.scopes import ADMIN, covers, fault_of
from moorage_registry.keys.tables import KeyRow
from moorage_registry.work import Work

PLATFORM = TenantId("platform")
"""The operators' own tenant: the only one whose keys may be platform:admin."""


@dataclass(frozen=True)
class Principal:
    """Who asks, and for which tenant: the key's own, or the one an operator acts for."""

    tenant: TenantId
    kid: str
    scopes: tuple[str, ...]

    @property
    def is_admin(self) -> bool:
        return ADMIN in self.scopes

    def may(self, scope: str) -> bool:
        return scope in self.scopes or self.is_admin


async def authenticate(session: AsyncSession, pepper: str, text: str, now: float) -> Principal:
    """The bearer of the key `text`. Raises Unauthenticated, or Forbidden where its tenant is suspended."""
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
    if status == "suspended":
        message = "this tenant is suspended; ask the platform's operator"
        raise Forbidden(message, code="tenant_suspended")
    return Principal(TenantId(row.tenant), row.kid, tuple(row.scopes))


def info(row: KeyRow) -> KeyInfo:
    return KeyInfo.model_validate({name: getattr(row, name) for name in KeyInfo.model_fields})


@dataclass(frozen=True)
class KeyService:
    work: Work
    pepper: str

    async def create(self, by: Principal, wanted: NewKey) -> CreatedKey:
        """Mint a key whose scopes are a subset of the minter's own. Raises Unprocessable, Forbidden."""
        scopes = sorted(set(wanted.scopes))
        for scope in scopes:
            fault = fault_of(scope)
            if fault is not None:
                raise Unprocessable(fault, code="unknown_scope")
            if not covers(by.scopes, scope):
                message = f"a key mints only what it may do itself, and yours lacks {scope}; ask for less"
                raise Forbidden(message, code="scope_not_held")
        if ADMIN in scopes and by.tenant != PLATFORM:
            raise Unprocessable(f"{ADMIN} keys belong to the tenant {PLATFORM}", code="admin_key_of_tenant")
        key = api_keys.mint(wanted.environment)
        expires_at = self.work.now + wanted.expires_in_s if wanted.expires_in_s is not None else None
        row = await self._add(key, wanted.environment, scopes, expires_at)
        return CreatedKey(**dict(info(row)), key=key.text)

    async def ensure(self, text: str, scopes: list[str]) -> None:
        """Have the key `text` exist, once. Raises Unprocessable when it is malformed or another tenant's."""
        key = api_keys.parse(text)
        if key is None:
            raise Unprocessable("the bootstrap key is not a Moorage API key", code="key_malformed")
        found = await KeyRepository(self.work.session).bearer(key.kid)
        if found is None:
            await self._add(key, text.split("_")[1], scopes, None)
        elif found[0].tenant != self.work.tenant or not api_keys.matches(self.pepper, key, found[0].digest):
            raise Unprocessable("the bootstrap key's id is taken by another key", code="key_taken")

    async def revoke(self, kid: str) -> None:
        """Refuse the key from now on; once revoked it stays so. Raises NotFound."""
        row = await KeyRepository(self.work.session).get(self.work.tenant, kid, lock=True)
        if row is None:
            raise NotFound(f"there is no key {kid}", code="key_not_found")
        if row.revoked_at is not None:
            return
        row.revoked_at = self.work.now
        row.version += 1
        self.work.touch("key", kid)
        self.work.happened("key.revoked", f"keys/{kid}", row.version, kid=kid)

    async def _add(self, key: api_keys.ApiKey, environment: str, scopes: list[str], expires_at: float | None) -> KeyRow:
        row = KeyRow(
            kid=key.kid,
            digest=api_keys.digest(self.pepper, key.secret),
            pepper_version=1,
            environment=environment,
            scopes=scopes,
            not_before=0.0,
            expires_at=expires_at,
            revoked_at=None,
            version=1,
            created_at=self.work.now,
            created_by=self.work.actor,
            name="",
            cidrs=[],
            rate=None,
            subject="",
            replaced_by=None,
            last_used_at=None,
        )
        await KeyRepository(self.work.session).add(self.work.tenant, row)
        self.work.touch("key", key.kid)
        self.work.happened("key.created", f"keys/{key.kid}", 1, kid=key.kid, scopes=scopes)
        return row
