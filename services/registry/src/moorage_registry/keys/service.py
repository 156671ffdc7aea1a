"""Minting, changing, rotating and revoking API keys."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from moorage_common import api_keys
from moorage_common.contracts.keys import Rate
from moorage_common.errors import Conflict, Forbidden, NotFound, Unprocessable
from moorage_common.networks import within
from moorage_registry.keys.grants import Grant, check_within, inherited, rate_within
from moorage_registry.keys.models import CreatedKey, KeyChange, KeyInfo, NewKey, Rotation
from moorage_registry.keys.principals import PLATFORM, Principal, authenticate, principal_of
from moorage_registry.keys.repository import KeyRepository
from moorage_registry.keys.scopes import ADMIN
from moorage_registry.keys.tables import KeyRow
from moorage_registry.work import Work

__all__ = ["PLATFORM", "KeyService", "Principal", "authenticate", "info"]

Environment = Literal["live", "test"]


def info(row: KeyRow) -> KeyInfo:
    return KeyInfo.model_validate({name: getattr(row, name) for name in KeyInfo.model_fields})


@dataclass(frozen=True)
class KeyService:
    work: Work
    pepper: str

    async def create(self, by: Principal, wanted: NewKey) -> CreatedKey:
        """Mint a key that may do a part of what the minter's own may. Raises Unprocessable, Forbidden."""
        expires_at = self.work.now + wanted.expires_in_s if wanted.expires_in_s is not None else None
        asked = Grant(_sorted(wanted.scopes), _sorted(wanted.cidrs), wanted.rate, expires_at)
        grant = inherited(asked, by.grant)
        check_within(grant, by.grant)
        if ADMIN in grant.scopes and by.tenant != PLATFORM:
            raise Unprocessable(f"{ADMIN} keys belong to the tenant {PLATFORM}", code="admin_key_of_tenant")
        return await self.mint(grant, name=wanted.name, environment=wanted.environment)

    async def mint(
        self, grant: Grant, *, name: str = "", environment: Environment = "live", subject: str = ""
    ) -> CreatedKey:
        """A new key of the work's tenant, unasked who may have it: the caller has checked that.

        Args:
            subject: the person whose session key it is; empty for an API key.
        """
        key = api_keys.mint(environment)
        row = await self._add(key, environment, grant, name=name, subject=subject)
        return CreatedKey(**dict(info(row)), key=key.text)

    async def ensure(self, text: str, scopes: list[str]) -> None:
        """Have the key `text` exist, once. Raises Unprocessable when it is malformed or another tenant's."""
        key = api_keys.parse(text)
        if key is None:
            raise Unprocessable("the bootstrap key is not a Moorage API key", code="key_malformed")
        found = await KeyRepository(self.work.session).bearer(key.kid)
        if found is None:
            await self._add(key, text.split("_")[1], Grant(_sorted(scopes)), name="bootstrap")
        elif found[0].tenant != self.work.tenant or not api_keys.matches(self.pepper, key, found[0].digest):
            raise Unprocessable("the bootstrap key's id is taken by another key", code="key_taken")

    async def change(self, by: Principal, kid: str, change: KeyChange) -> KeyInfo:
        """Set what is given. Raises NotFound; Conflict for a key that ended; Forbidden for more than `by` has."""
        row = await self._living(kid)
        changed: dict[str, Any] = {}
        if change.name is not None:
            changed["name"] = change.name
        if change.cidrs is not None:
            cidrs = _sorted(change.cidrs)
            if not within(cidrs, by.cidrs):
                message = f"your key may be used from {', '.join(by.cidrs)} alone; name networks within those"
                raise Forbidden(message, code="network_not_held")
            changed["cidrs"] = list(cidrs)
        if "rate" in change.model_fields_set:
            if not rate_within(change.rate, by.rate):
                raise Forbidden("a key's rate is at most that of the key that sets it", code="rate_not_held")
            changed["rate"] = _stored(change.rate)
        if change.expires_in_s is not None:
            changed["expires_at"] = self._sooner(row, change.expires_in_s)
        changed = {key: value for key, value in changed.items() if getattr(row, key) != value}
        if changed:
            self._alter(row, changed)
            self.work.happened("key.changed", f"keys/{kid}", row.version, kid=kid, **changed)
        return info(row)

    async def rotate(self, by: Principal, kid: str, rotation: Rotation) -> CreatedKey:
        """A new key that may do what the old one may, which ends after the overlap. Its lifetime begins anew.

        Raises NotFound; Conflict for a key that ended or was rotated; Forbidden for one that may do more than `by`.
        """
        row = await self._living(kid)
        if row.replaced_by is not None:
            message = f"key {kid} was rotated: {row.replaced_by} takes its place; rotate that one"
            raise Conflict(message, code="key_rotated")
        old = principal_of(row).grant
        expires_at = None
        if row.expires_at is not None:
            lifetime_s = row.expires_at - row.created_at
            expires_at = min(self.work.now + lifetime_s, by.grant.expires_at or float("inf"))
        grant = Grant(old.scopes, old.cidrs, old.rate, expires_at)
        check_within(grant, by.grant)
        made = await self.mint(grant, name=row.name, environment="test" if row.environment == "test" else "live")
        ends_at = self.work.now + rotation.overlap_s
        ends_at = ends_at if row.expires_at is None else min(ends_at, row.expires_at)
        changed: dict[str, Any] = {"replaced_by": made.kid, "expires_at": ends_at}
        self._alter(row, changed)
        self.work.happened("key.rotated", f"keys/{kid}", row.version, kid=kid, **changed)
        return made

    async def revoke(self, kid: str) -> None:
        """Refuse the key from now on; once revoked it stays so. Raises NotFound."""
        row = await self._locked(kid)
        if row.revoked_at is None:
            self._alter(row, {"revoked_at": self.work.now})
            self.work.happened("key.revoked", f"keys/{kid}", row.version, kid=kid)

    async def leaked(self, kid: str) -> None:
        """Revoke a key whose text was seen where it should not be, and tell which keys it made. Raises NotFound."""
        row = await self._locked(kid)
        if row.revoked_at is None:
            self._alter(row, {"revoked_at": self.work.now})
            made = await KeyRepository(self.work.session).made_by(self.work.tenant, kid)
            self.work.happened("key.leaked", f"keys/{kid}", row.version, kid=kid, name=row.name, made=list(made))

    async def _locked(self, kid: str) -> KeyRow:
        row = await KeyRepository(self.work.session).get(self.work.tenant, kid, lock=True)
        if row is None:
            raise no_key(kid)
        return row

    async def _living(self, kid: str) -> KeyRow:
        """An API key that is still good. Raises NotFound, Conflict."""
        row = await self._locked(kid)
        if row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= self.work.now):
            raise Conflict(f"key {kid} is revoked or has expired; create a new one", code="key_ended")
        if row.subject:
            raise Conflict(f"key {kid} is a person's session; sign in again for another", code="session_key")
        return row

    def _sooner(self, row: KeyRow, expires_in_s: float) -> float:
        expires_at = self.work.now + expires_in_s
        if row.expires_at is not None and expires_at > row.expires_at:
            message = "a key's end can be brought nearer alone; rotate the key for one that lasts longer"
            raise Unprocessable(message, code="expiry_later")
        return expires_at

    def _alter(self, row: KeyRow, changed: dict[str, Any]) -> None:
        for name, value in changed.items():
            setattr(row, name, value)
        row.version += 1
        self.work.touch("key", row.kid)

    async def _add(
        self, key: api_keys.ApiKey, environment: str, grant: Grant, *, name: str = "", subject: str = ""
    ) -> KeyRow:
        row = KeyRow(
            kid=key.kid, digest=api_keys.digest(self.pepper, key.secret), pepper_version=1, environment=environment,
            name=name, scopes=list(grant.scopes), cidrs=list(grant.cidrs), rate=_stored(grant.rate), subject=subject,
            not_before=0.0, expires_at=grant.expires_at, revoked_at=None, replaced_by=None, last_used_at=None,
            version=1, created_at=self.work.now, created_by=self.work.actor,
        )  # fmt: skip
        await KeyRepository(self.work.session).add(self.work.tenant, row)
        self.work.touch("key", key.kid)
        told: dict[str, Any] = {
            "name": name,
            "cidrs": row.cidrs,
            "rate": row.rate,
            "expires_at": row.expires_at,
            "subject": subject,
        }
        given = {field: value for field, value in told.items() if value}
        self.work.happened("key.created", f"keys/{key.kid}", 1, kid=key.kid, scopes=row.scopes, **given)
        return row


def no_key(kid: str) -> NotFound:
    return NotFound(f"there is no key {kid}", code="key_not_found")


def _sorted(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(set(texts)))


def _stored(rate: Rate | None) -> dict[str, Any] | None:
    return {"requests_per_s": rate.requests_per_s, "burst": rate.burst} if rate is not None else None
