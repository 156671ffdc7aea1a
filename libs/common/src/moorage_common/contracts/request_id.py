"""`Moorage-Request-Id`: ULID, model, version, arm, route revision and a MAC that binds them to the tenant.

The id alone tells which version answered, so feedback needs no lookup, and cannot be forged for another tenant.
"""

import hashlib
import hmac
import random
import time
from dataclasses import dataclass

_BASE32 = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [high + low for high in _BASE32 for low in _BASE32]
_PAIR_SHIFTS = range(120, -1, -10)
_MAC_BYTES = 9


@dataclass(frozen=True, slots=True)
class RequestId:
    ulid: str
    model: str
    version: int
    arm: str
    revision: int


def new_ulid(now_ms: int | None = None) -> str:
    """26 characters of Crockford base 32: 48 bits of milliseconds, 80 random bits (github.com/ulid/spec)."""
    ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    value = (ms << 80) | random.getrandbits(80)
    return "".join([_PAIRS[(value >> shift) & 1023] for shift in _PAIR_SHIFTS])


def _mac(secret: bytes, tenant: str, body: str) -> str:
    text = f"{tenant}\n{body}".encode()
    return hashlib.blake2s(text, key=secret, digest_size=_MAC_BYTES).hexdigest()


def format_request_id(secret: bytes, tenant: str, rid: RequestId) -> str:
    """Render with a MAC keyed by `secret` (at most 32 bytes)."""
    body = f"{rid.ulid}.{rid.model}.{rid.version}.{rid.arm}.{rid.revision}"
    return f"{body}.{_mac(secret, tenant, body)}"


def parse_request_id(secret: bytes, tenant: str, text: str) -> RequestId | None:
    """The id, or None when it is malformed or was not issued to `tenant`."""
    body, _, mac = text.rpartition(".")
    parts = body.split(".")
    if len(parts) != 5 or not hmac.compare_digest(_mac(secret, tenant, body).encode(), mac.encode()):
        return None
    ulid, model, version, arm, revision = parts
    return RequestId(ulid=ulid, model=model, version=int(version), arm=arm, revision=int(revision))
