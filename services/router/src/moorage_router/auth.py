"""The key check, from memory: `keys/<kid>` as the registry writes it."""

import hashlib
import time
from collections.abc import Callable

import structlog
from moorage_common import api_keys
from moorage_common.contracts.keys import KeyRecord
from moorage_common.contracts.versioned import Versioned
from moorage_common.errors import Forbidden, Unauthenticated, Unavailable
from pydantic import ValidationError

log = structlog.get_logger()

_VERIFIED_MOST = 10_000
_MODELS_MOST = 1_000


class Principal:
    """Who calls: one accepted key. `models` remembers which models its scopes cover."""

    __slots__ = ("_models", "kid", "record", "tenant")

    def __init__(self, record: KeyRecord) -> None:
        self.record = record
        self.kid = record.kid
        self.tenant = record.tenant
        self._models: dict[str, bool] = {}

    def require_infer(self, model: str) -> None:
        """Raises Forbidden unless the key carries `infer` for `model`, the name of a model that exists."""
        allowed = self._models.get(model)
        if allowed is None:
            allowed = self.record.allows("infer", model)
            if len(self._models) < _MODELS_MOST:
                self._models[model] = allowed
        if not allowed:
            message = f"this key may not call {model}; use one with the scope infer:{model}"
            raise Forbidden(message, code="scope_missing")


class Keyring:
    """All keys. A text that passed once is known by its hash, for as long as the record it passed against stands."""

    def __init__(self, pepper: str) -> None:
        self._pepper = pepper
        self._principals: dict[str, Principal] = {}
        self._verified: dict[bytes, Principal] = {}
        self._distrusted: Callable[[], bool] | None = None

    def distrust(self, stale: Callable[[], bool]) -> None:
        """Refuse every key while `stale` says that revocations may not have been heard."""
        self._distrusted = stale

    def apply(self, key: str, entry: Versioned) -> None:
        """Take one entry of the bucket `keys`. What was verified against the old record no longer counts."""
        self._principals.pop(key, None)
        if entry.value is None:
            return
        try:
            self._principals[key] = Principal(KeyRecord.model_validate(entry.value))
        except ValidationError as error:
            log.warning("unreadable key record ignored", kid=key, errors=error.error_count())

    def authenticate(self, authorization: bytes | None) -> Principal:
        """Who sent `authorization`, a header's value. Raises Unauthenticated, or Unavailable while keys are stale."""
        if authorization is None:
            message = "send an API key: Authorization: Bearer mrg_..."
            raise Unauthenticated(message, code="key_missing")
        if self._distrusted is not None and self._distrusted():
            message = "API keys cannot be checked against the current list right now; try again later"
            raise Unavailable(message, code="keys_stale", retry_after_s=5)
        mark = hashlib.blake2b(authorization, digest_size=16).digest()
        principal = self._verified.get(mark)
        if principal is None or self._principals.get(principal.kid) is not principal:
            principal = self._verify(authorization, mark)
        record = principal.record
        now = time.time()
        if record.revoked:
            message = "this API key was revoked; use another one"
            raise Unauthenticated(message, code="key_revoked")
        if now < record.not_before or (record.expires_at is not None and now >= record.expires_at):
            message = "this API key is outside its time of validity; use another one"
            raise Unauthenticated(message, code="key_expired")
        return principal

    def _verify(self, authorization: bytes, mark: bytes) -> Principal:
        scheme, _, text = authorization.decode("latin-1").partition(" ")
        key = api_keys.parse(text.strip()) if scheme.lower() == "bearer" else None
        if key is None:
            message = "this is not an API key; send Authorization: Bearer mrg_... exactly as it was shown"
            raise Unauthenticated(message, code="key_malformed")
        principal = self._principals.get(key.kid)
        if not api_keys.matches(self._pepper, key, principal.record.digest if principal else None) or principal is None:
            message = "unknown API key; create one with `moorage keys create`"
            raise Unauthenticated(message, code="key_unknown")
        if len(self._verified) >= _VERIFIED_MOST:
            self._verified.clear()
        self._verified[mark] = principal
        return principal
