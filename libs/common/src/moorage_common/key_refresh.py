"""Keys and limits read from the registry itself while the bus is silent, so that a revocation is heard all the same.

The registry beats every second on the bus. Who has heard nothing for two asks it over HTTP, once a second, until it is
heard again.
"""

import asyncio
import time

import httpx
import structlog
from pydantic import ValidationError

from moorage_common.contracts.keys import KeyTables
from moorage_common.kv import BucketReader, cancelled
from moorage_common.secrets import internal_token

log = structlog.get_logger()

SILENT_S = 2.0
"""Without a heartbeat for this long, the registry is asked."""
EACH_S = 1.0
_LOOK_S = 0.1
_TIMEOUT_S = 2.0
_REST = 4.0
"""Of the time that a read took, this many times is waited: what is large is not read without a pause."""


class KeyRefresh:
    """Keeps two readers current past the bus.

    Attributes:
        reads: of the registry, that it answered.
        failures: of those, that it did not.
    """

    def __init__(self, url: str, pepper: str, keys: BucketReader, limits: BucketReader) -> None:
        """`url` is the registry's; empty where there is none to ask."""
        self._url = url.rstrip("/")
        self._headers = {"authorization": f"Bearer {internal_token(pepper)}"}
        self._keys = keys
        self._limits = limits
        self._last_read = -1e9
        self._last_answer = 0
        self.reads = 0
        self.failures = 0

    def silence_s(self) -> float:
        """Seconds since the keys were last known to be all, by the bus or by the registry."""
        return min(self._keys.silence_s(), time.monotonic() - self._last_read)

    async def run(self) -> None:
        """Watch the silence until cancelled."""
        if not self._url:
            return
        async with httpx.AsyncClient(timeout=_TIMEOUT_S, trust_env=False) as http:
            while not cancelled():
                if max(self._keys.silence_s(), self._limits.silence_s()) <= SILENT_S:
                    await asyncio.sleep(_LOOK_S)
                    continue
                started = time.monotonic()
                await self._read(http)
                took_s = time.monotonic() - started
                await asyncio.sleep(max(EACH_S - took_s, _REST * took_s))

    async def _read(self, http: httpx.AsyncClient) -> None:
        keys, limits = dict(self._keys.entries), dict(self._limits.entries)
        asked = time.monotonic()
        try:
            answer = await http.get(f"{self._url}/v1/internal/keys", headers=self._headers)
            answer.raise_for_status()
            if hash(answer.content) != self._last_answer:
                found = KeyTables.model_validate_json(answer.content)
                self._keys.take_whole(found.keys, keys)
                self._limits.take_whole(found.limits, limits)
        except (httpx.HTTPError, ValidationError) as error:
            self.failures += 1
            log.debug("registry not read", error=str(error)[:200])
            return
        if not self.reads or asked - self._last_read > 2 * (EACH_S + _TIMEOUT_S):
            log.warning("the bus is silent; keys and limits are read from the registry")
        self._last_answer, self._last_read = hash(answer.content), asked
        self.reads += 1
