"""API keys: `mrg_<live|test>_<kid: 12 base62><secret: 32 base62><crc: 6 base62>`.

The CRC-32 over all before it lets scanners and the router reject a typo offline (GitHub's token format). Only kid and
HMAC-SHA256(pepper, secret) are stored.
"""

import hashlib
import hmac
import re
import secrets
import zlib
from dataclasses import dataclass, field

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_KEY = re.compile(r"^mrg_(live|test)_([0-9A-Za-z]{12})([0-9A-Za-z]{32})([0-9A-Za-z]{6})$")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key in clear, as its bearer sends it. `repr` shows the kid alone."""

    kid: str
    secret: str = field(repr=False)
    text: str = field(repr=False)


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits.append(_BASE62[digit])
    return "".join(reversed(digits))


def _random(length: int) -> str:
    return "".join(secrets.choice(_BASE62) for _ in range(length))


def _crc(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), 6)


def complete(body: str) -> str:
    """`body`, all of a key before its checksum, with the checksum."""
    return body + _crc(body)


def mint(environment: str = "live") -> ApiKey:
    """A new random key of `environment`, `live` or `test`."""
    kid, secret = _random(12), _random(32)
    return ApiKey(kid=kid, secret=secret, text=complete(f"mrg_{environment}_{kid}{secret}"))


def parse(text: str) -> ApiKey | None:
    """The key's parts, or None when the form or the checksum is wrong."""
    match = _KEY.fullmatch(text)
    if match is None or _crc(text[:-6]) != match[4]:
        return None
    return ApiKey(kid=match[2], secret=match[3], text=text)


def digest(pepper: str, secret: str) -> str:
    """What is stored: HMAC-SHA256(pepper, secret), hex."""
    return hmac.new(pepper.encode(), secret.encode(), hashlib.sha256).hexdigest()


def matches(pepper: str, key: ApiKey, stored_digest: str | None) -> bool:
    """Constant-time check; an unknown kid (None) costs the same HMAC."""
    found = digest(pepper, key.secret)
    return hmac.compare_digest(found, stored_digest if stored_digest is not None else "0" * 64)
