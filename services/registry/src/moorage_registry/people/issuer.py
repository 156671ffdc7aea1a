"""The identity provider's keys, read over HTTP and kept: it may be away for a day."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import structlog
from joserfc import jwk

from moorage_common.clock import Clock
from moorage_common.errors import Unavailable
from moorage_registry.people.tokens import Expected, Person, check, header_of, refused, usable_keys
from moorage_registry.settings import Settings

log = structlog.get_logger()

FRESH_S = 300.0
AGAIN_S = 10.0
KEPT_S = 86_400.0
_TIMEOUT_S = 3.0
_DISCOVERY = "/.well-known/openid-configuration"


class _Unreadable(Exception):
    """The provider answered something else than the document asked for."""


@dataclass
class Issuer:
    """Checks tokens against the provider's keys.

    Keys are read again after 300 s, or for an unknown key id, at most every 10 s either way; what was read last serves
    for 24 h while the provider does not answer. A caller whose key is known never waits for another's reading.

    Args:
        jwks_url: where the keys are; empty: as the issuer's discovery document says.
    """

    http: httpx.AsyncClient
    clock: Clock
    expected: Expected
    jwks_url: str = ""
    _keys: Mapping[str, jwk.Key] = field(default_factory=dict, repr=False)
    _read_at: float = float("-inf")
    _tried_at: float = float("-inf")
    _reading: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    async def person(self, token: str) -> Person:
        """Whose token it is. Raises Unauthenticated; Unavailable where no keys could be read."""
        header = header_of(token)
        key = await self._key(header.kid)
        if key is None:
            raise refused("the token was signed with a key that is not the identity provider's")
        return check(token, key, self.expected, self.clock())

    async def _key(self, kid: str | None) -> jwk.Key | None:
        known = self._known(kid)
        if known is None or (self.clock() - self._read_at > FRESH_S and not self._reading.locked()):
            async with self._reading:
                known = self._known(kid)
                stale = self.clock() - self._read_at > FRESH_S
                if (known is None or stale) and self.clock() - self._tried_at >= AGAIN_S:
                    await self._read()
                    known = self._known(kid)
        if self.clock() - self._read_at > KEPT_S:
            message = "the identity provider does not answer; try again soon, or use an API key"
            raise Unavailable(message, code="identity_unavailable", retry_after_s=AGAIN_S)
        return known

    def _known(self, kid: str | None) -> jwk.Key | None:
        """A token may leave its key's id out where there is one key alone."""
        if kid is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(kid)

    async def _read(self) -> None:
        self._tried_at = self.clock()
        try:
            url = self.jwks_url or await self._discovered()
            keys = usable_keys(await self._document(url))
            if not keys:
                raise _Unreadable("it has no key for RS256 or ES256")
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, TypeError, _Unreadable) as error:
            log.warning("the identity provider's keys cannot be read", issuer=self.expected.issuer, error=repr(error))
            return
        self._keys, self._read_at = keys, self.clock()

    async def _discovered(self) -> str:
        """OpenID Connect Discovery 1.0, 4: the document must name the very issuer it was asked of."""
        document = await self._document(self.expected.issuer.rstrip("/") + _DISCOVERY)
        if document.get("issuer") != self.expected.issuer:
            raise _Unreadable(f"its discovery document is of the issuer {document.get('issuer')!r}")
        url = document.get("jwks_uri")
        if not isinstance(url, str):
            raise _Unreadable("its discovery document names no keys")
        return url

    async def _document(self, url: str) -> Mapping[str, Any]:
        answer = await self.http.get(url, timeout=_TIMEOUT_S)
        answer.raise_for_status()
        document = answer.json()
        if not isinstance(document, dict):
            raise _Unreadable("its document is not an object")
        return document


def issuer_of(settings: Settings, http: httpx.AsyncClient, clock: Clock) -> Issuer | None:
    """The provider that the settings name, or None: people do not sign in."""
    if settings.identity == "none":
        return None
    expected = Expected(settings.identity_issuer, settings.identity_audience, settings.identity_client_id)
    return Issuer(http, clock, expected, settings.identity_jwks_url)
