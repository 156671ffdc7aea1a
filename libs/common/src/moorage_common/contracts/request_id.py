"""`Moorage-Request-Id`: ULID, model, version, arm, route revision and a MAC that binds them to the tenant.

The id alone tells which version answered, so feedback needs no lookup, and cannot be forged for another tenant.
"""

import hashlib
import hmac
import random
import time
from dataclasses import dataclass
from functools import lru_cache

_BASE32 = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [high + low for high in _BASE32 for low in _BASE32]
_ULID_CHARACTERS, _TIME_CHARACTERS = 26, 10
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
    return _of_time(ms) + _of_random(random.getrandbits(80))


def ulid_of(request_id: str) -> str:
    """The ULID that a request id, which is not checked, begins with."""
    return request_id[:_ULID_CHARACTERS]


def ulid_time_s(ulid: str) -> float:
    """When it was made, seconds since 1970. Raises ValueError for what is no ULID."""
    if len(ulid) != _ULID_CHARACTERS:
        message = "a ULID has 26 characters"
        raise ValueError(message)
    ms = 0
    for character in ulid[:_TIME_CHARACTERS]:
        ms = ms << 5 | _BASE32.index(character)
    return ms / 1000


@lru_cache(maxsize=1)
def _of_time(ms: int) -> str:
    return "".join([_PAIRS[(ms >> shift) & 1023] for shift in range(40, -1, -10)])


def _of_random(bits: int) -> str:
    pairs = _PAIRS
    return (
        f"{pairs[bits >> 70]}{pairs[bits >> 60 & 1023]}{pairs[bits >> 50 & 1023]}{pairs[bits >> 40 & 1023]}"
        f"{pairs[bits >> 30 & 1023]}{pairs[bits >> 20 & 1023]}{pairs[bits >> 10 & 1023]}{pairs[bits & 1023]}"
    )


def _mac(secret: bytes, tenant: str, body: str) -> str:
    text = f"{tenant}\n{body}".encode()
    return hashlib.blake2s(text, key=secret, digest_size=_MAC_BYTES).hexdigest()


def format_request_id(secret: bytes, tenant: str, rid: RequestId) -> str:
    """Render with a MAC keyed by `secret` (at most 32 bytes)."""
    body = f"{rid.ulid}.{rid.model}.{rid.version}.{rid.arm}.{rid.revision}"
    return f"{body}.{_mac(secret, tenant, body)}"


class RequestIds:
    """Ids of one version, rendered with as little work a request as can be: all that stays the same is done once."""

    __slots__ = ("_begun", "_rest")

    def __init__(
        self, secret: bytes, tenant: str, *, model: str = "-", version: int = 0, arm: str = "-", revision: int = 0
    ) -> None:
        self._begun = hashlib.blake2s(f"{tenant}\n".encode(), key=secret, digest_size=_MAC_BYTES)
        self._rest = f".{model}.{version}.{arm}.{revision}"

    def new(self) -> str:
        """As `format_request_id` of a new ULID."""
        body = new_ulid() + self._rest
        mac = self._begun.copy()
        mac.update(body.encode())
        return f"{body}.{mac.hexdigest()}"


def parse_request_id(secret: bytes, tenant: str, text: str) -> RequestId | None:
    """The id, or None when it is malformed or was not issued to `tenant`."""
    body, _, mac = text.rpartition(".")
    parts = body.split(".")
    if len(parts) != 5 or not hmac.compare_digest(_mac(secret, tenant, body).encode(), mac.encode()):
        return None
    ulid, model, version, arm, revision = parts
    return RequestId(ulid=ulid, model=model, version=int(version), arm=arm, revision=int(revision))
