"""Whether a token of the identity provider is good, and whose it is. Pure: keys and clock are the caller's.

OpenID Connect Core 1.0, 3.1.3.7, and RFC 9068, 4, kept to what public clients of a device flow get: RS256 or ES256, the
issuer, the audience and the client that the token was made for, and its time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

from joserfc import jwk, jws, jwt
from joserfc.errors import JoseError

from moorage_common.errors import Unauthenticated

TOKEN_MAX = 16_384
ALGORITHMS = ("RS256", "ES256")
LEEWAY_S = 30
SUBJECT_MAX = 255
NAME_MAX = 200
_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
_RSA_MIN_BITS = 2048

Taken = Literal["access_token", "id_token"]


@dataclass(frozen=True, slots=True)
class Expected:
    """What a token must say of itself."""

    issuer: str
    audience: str
    client_id: str

    @property
    def taken(self) -> Taken:
        """Which of the provider's two tokens is sent here: an ID token's audience is the client itself."""
        return "id_token" if self.audience == self.client_id else "access_token"


@dataclass(frozen=True, slots=True)
class Person:
    """Who signed in: `subject` is the provider's own and never changes, `name` is for people to read."""

    subject: str
    name: str


@dataclass(frozen=True, slots=True)
class Header:
    """What a token says before it is checked: which key signed it, and how."""

    algorithm: str
    kid: str | None


def refused(why: str) -> Unauthenticated:
    return Unauthenticated(f"{why}; sign in again: moorage login --oidc", code="token_refused")


def header_of(token: str) -> Header:
    """Raises Unauthenticated where it is no signed token, or of an algorithm or kind that is not taken."""
    try:
        header = jws.extract_compact(token.encode()).headers()
    except (JoseError, ValueError, TypeError, AttributeError):
        raise refused("this is not a token of an identity provider") from None
    algorithm, kid, kind = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
    if algorithm not in ALGORITHMS:
        raise refused(f"tokens are taken with {' or '.join(ALGORITHMS)} alone")
    if "crit" in header or not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise refused("this kind of token does not say who signs in")
    if kid is not None and not isinstance(kid, str):
        raise refused("this token names no key")
    return Header(algorithm, kid)


def usable_keys(document: Mapping[str, Any]) -> dict[str, jwk.Key]:
    """The keys of a JWK set (RFC 7517) that may sign tokens, by their id; others are left out."""
    found: dict[str, jwk.Key] = {}
    for entry in document.get("keys", []):
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
            continue
        if entry.get("alg", "RS256") not in ALGORITHMS:
            continue
        try:
            key = _imported(entry)
        except (JoseError, ValueError, TypeError, KeyError):
            continue
        if key is not None:
            found[str(entry.get("kid", ""))] = key
    return found


def _imported(entry: dict[str, Any]) -> jwk.Key | None:
    """An RSA key of 2048 bits or more, or one on P-256; None for all others."""
    public = {name: value for name, value in entry.items() if name in ("kty", "n", "e", "crv", "x", "y")}
    if public.get("kty") == "RSA" and len(str(public.get("n", ""))) * 6 >= _RSA_MIN_BITS:
        return jwk.RSAKey.import_key(public)
    if public.get("kty") == "EC" and public.get("crv") == "P-256":
        return jwk.ECKey.import_key(public)
    return None


def check(token: str, key: jwk.Key, expected: Expected, now: float) -> Person:
    """Whose token it is. Raises Unauthenticated: wrong signature, issuer, audience, client or time."""
    try:
        claims = jwt.decode(token, key, algorithms=list(ALGORITHMS)).claims
    except (JoseError, ValueError, TypeError):
        raise refused("the token's signature is not the identity provider's") from None
    if claims.get("iss") != expected.issuer:
        raise refused("the token is another issuer's")
    if expected.audience not in _audiences(claims) or not _is_for_client(claims, expected):
        raise refused("the token was made for another application")
    _check_time(claims, now)
    if claims.get("typ", "Bearer") not in ("Bearer", "ID") or "events" in claims:
        raise refused("this kind of token does not say who signs in")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= SUBJECT_MAX or not subject.isprintable():
        raise refused("the token names no person")
    return Person(subject, _name(claims))


def _audiences(claims: Mapping[str, Any]) -> list[Any]:
    audience = claims.get("aud")
    return audience if isinstance(audience, list) else [audience]


def _is_for_client(claims: Mapping[str, Any], expected: Expected) -> bool:
    """By `azp`, or RFC 9068's `client_id`; a token with neither only where its one audience is the client."""
    made_for = claims.get("azp", claims.get("client_id"))
    if made_for is None:
        return _audiences(claims) == [expected.client_id]
    return bool(made_for == expected.client_id)


def _check_time(claims: Mapping[str, Any], now: float) -> None:
    expires, begins, issued = (claims.get(name) for name in ("exp", "nbf", "iat"))
    if not _is_instant(expires) or expires + LEEWAY_S <= now:
        raise refused("the token has expired")
    for start in (begins, issued):
        if start is not None and (not _is_instant(start) or start - LEEWAY_S > now):
            raise refused("the token is not valid yet; check the clocks of both sides")


def _is_instant(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _name(claims: Mapping[str, Any]) -> str:
    for claim in ("preferred_username", "email", "name"):
        name = claims.get(claim)
        if isinstance(name, str) and name:
            return "".join(letter for letter in name if letter.isprintable())[:NAME_MAX]
    return ""
