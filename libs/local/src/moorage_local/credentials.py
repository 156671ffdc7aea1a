"""The secrets of one platform: made on its first start, the same ever after."""

import secrets
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Self

from moorage_common import api_keys
from moorage_local.private_files import read_private, write_private

_FILE = "secrets.json"


@dataclass(frozen=True)
class Credentials:
    """Kept in `secrets.json` of the state directory. `demo_key` is empty until the demo tenant has one."""

    pepper: str = field(repr=False)
    admin_key: str = field(repr=False)
    nats_password: str = field(repr=False)
    redis_password: str = field(repr=False)
    ray_token: str = field(repr=False)
    demo_key: str = field(default="", repr=False)

    @classmethod
    def of(cls, state: Path) -> Self:
        """Read what is there, make what is missing."""
        fresh = cls(
            pepper=secrets.token_hex(32),
            admin_key=api_keys.mint().text,
            nats_password=secrets.token_hex(16),
            redis_password=secrets.token_hex(16),
            ray_token=secrets.token_hex(32),
        )
        held = {name: text for name, text in read_private(state / _FILE).items() if name in asdict(fresh)}
        credentials = replace(fresh, **held)
        credentials.save(state)
        return credentials

    def save(self, state: Path) -> None:
        write_private(state / _FILE, asdict(self))
