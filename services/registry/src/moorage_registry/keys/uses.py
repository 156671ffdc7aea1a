"""When each key was last used: gathered in memory, written now and then, each key's once a minute at most."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from moorage_common.db import Database
from moorage_registry.keys.repository import KeyRepository

WRITE_S = 10.0


@dataclass
class KeyUses:
    db: Database
    _seen: dict[str, float] = field(default_factory=dict)

    def note(self, kid: str, at: float) -> None:
        """The key was used at `at`, seconds since 1970."""
        if at > self._seen.get(kid, 0.0):
            self._seen[kid] = at

    def note_all(self, seen: Mapping[str, float]) -> None:
        for kid, at in seen.items():
            self.note(kid, at)

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await asyncio.sleep(WRITE_S)
            await self.write()

    async def write(self) -> None:
        """Write what was seen since the last time; a database that is away gets it the next."""
        seen, self._seen = self._seen, {}
        if not seen:
            return
        try:
            async with self.db.write() as session:
                await KeyRepository(session).used(seen)
        except BaseException:
            self.note_all(seen)
            raise
