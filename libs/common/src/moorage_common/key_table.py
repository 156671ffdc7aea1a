"""API keys checked from memory: fed by readers of the `keys` and `limits` buckets, knows nothing of HTTP or NATS.

The order rule (an older version never overwrites a newer, tombstones win) is the BucketReader's; this table holds what
the reader accepted.
"""

import hashlib
from dataclasses import dataclass, field

import structlog
from pydantic import ValidationError

from moorage_common import api_keys
from moorage_common.contracts.keys import KeyRecord, TenantLimits
from moorage_common.contracts.names import TenantId
from moorage_common.contracts.versioned import Versioned
from moorage_common.errors import Forbidden, Unauthenticated
from moorage_common.networks import Networks

log = structlog.get_logger()


@dataclass
class KeyTable:
    """Key records and tenants' limits in memory. Hand `on_key` and `on_limits` to the BucketReaders.

    A key's HMAC is paid once: a checked key is remembered, by its hash, with the record it was checked against, and
    counts only while the table holds that very record, so a revocation, a rotation or a tombstone takes effect at once.

    Attributes:
        verified_max: checked keys remembered; beyond it the oldest one is checked anew.
    """

    pepper: str = field(repr=False)
    verified_max: int = 10_000
    _records: dict[str, KeyRecord] = field(default_factory=dict, repr=False)
    _limits: dict[str, TenantLimits] = field(default_factory=dict, repr=False)
    _verified: dict[bytes, KeyRecord] = field(default_factory=dict, repr=False)
    _networks: dict[str, Networks] = field(default_factory=dict, repr=False)

    def on_key(self, kid: str, entry: Versioned) -> None:
        """Take an accepted entry of the `keys` bucket. An unreadable one removes the key: it fails closed."""
        self._records.pop(kid, None)
        self._networks.pop(kid, None)
        if entry.value is None:
            return
        try:
            record = KeyRecord.model_validate(entry.value)
            if record.cidrs:
                self._networks[kid] = Networks(record.cidrs)
        except ValueError as error:
            log.warning("unreadable key record, key refused", kid=kid, error=type(error).__name__)
        else:
            self._records[kid] = record

    def on_limits(self, tenant: str, entry: Versioned) -> None:
        """Take an accepted entry of the `limits` bucket. An unreadable one leaves the limits held before."""
        if entry.value is None:
            self._limits.pop(tenant, None)
            return
        try:
            self._limits[tenant] = TenantLimits.model_validate(entry.value)
        except ValidationError as error:
            log.warning("unreadable limits ignored", tenant=tenant, errors=error.error_count())

    def limits(self, tenant: TenantId) -> TenantLimits:
        """The tenant's limits; the defaults while none are known."""
        found = self._limits.get(tenant)
        return found if found is not None else TenantLimits(tenant=tenant)

    def check(self, text: str, now: float, address: str = "") -> KeyRecord:
        """The record of the key `text` (`mrg_...`) at `now` (seconds since 1970), sent from `address`.

        Raises:
            Unauthenticated: malformed, unknown, wrong secret, revoked, expired or not yet valid.
            Forbidden: the tenant is suspended or deleted, or the key is for other networks than the one of `address`.
        """
        mark = hashlib.blake2b(text.encode(), digest_size=16).digest()
        record = self._verified.get(mark)
        if record is None or not self.holds(record):
            record = self._verify(text, mark)
        self.admit(record, now, address)
        return record

    def holds(self, record: KeyRecord) -> bool:
        """Whether a record that `check` returned is still the one of its key."""
        return self._records.get(record.kid) is record

    def admit(self, record: KeyRecord, now: float, address: str = "") -> None:
        """What can change about a record held, with the same errors as `check`."""
        if record.revoked:
            raise Unauthenticated("this API key has been revoked; use another one", code="key_revoked")
        if record.expires_at is not None and now >= record.expires_at:
            raise Unauthenticated("this API key has expired; create a new one", code="key_expired")
        if now < record.not_before:
            raise Unauthenticated("this API key is not valid yet", code="key_not_yet_valid")
        if record.cidrs and not self._networks[record.kid].hold(address):
            raise not_from_here(address)
        limits = self._limits.get(record.tenant)
        if limits is not None and limits.status != "active":
            raise not_served(limits.status)

    def _verify(self, text: str, mark: bytes) -> KeyRecord:
        self._verified.pop(mark, None)
        key = api_keys.parse(text)
        if key is None:
            raise Unauthenticated("this is not an API key of Moorage; check for a typing error", code="key_malformed")
        record = self._records.get(key.kid)
        if not api_keys.matches(self.pepper, key, record.digest if record is not None else None) or record is None:
            raise Unauthenticated("unknown API key; create one or check MOORAGE_API_KEY", code="key_unknown")
        if len(self._verified) >= self.verified_max:
            del self._verified[next(iter(self._verified))]
        self._verified[mark] = record
        return record


def not_served(status: str) -> Forbidden:
    """What a key of a tenant hears whose `status` is not active."""
    if status == "suspended":
        return Forbidden("this tenant is suspended; ask the platform's operator", code="tenant_suspended")
    return Forbidden("this tenant is deleted, and nothing is served to it any more", code="tenant_deleting")


def require_scope(record: KeyRecord, scope: str, model: str | None = None) -> None:
    """Raise Forbidden, naming the scope, unless the key carries it (`infer` and `feedback` for `model`)."""
    if not record.allows(scope, model):
        needed = scope if model is None else f"{scope}:{model}"
        message = f"this API key lacks the scope {needed}; use a key that has it"
        raise Forbidden(message, code="scope_missing")


def not_from_here(address: str) -> Forbidden:
    """The refusal of a key that is for other networks than the caller's."""
    place = f"from {address}" if address else "from here"
    message = f"this API key may not be used {place}; call from one of its networks, or have them changed"
    return Forbidden(message, code="key_network")


def bearer(authorization: str | None) -> str:
    """The credential of an `Authorization: Bearer ...` header. Raises Unauthenticated without one."""
    scheme, _, credential = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not credential.strip():
        raise Unauthenticated("send your API key as `Authorization: Bearer mrg_...`", code="key_absent")
    return credential.strip()
