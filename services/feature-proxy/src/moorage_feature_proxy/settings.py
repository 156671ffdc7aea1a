"""Settings of the feature-proxy."""

from pathlib import Path

from pydantic import Field, SecretStr

from moorage_common.networks import Cidr
from moorage_common.settings import TRUSTED_PROXIES, ServiceSettings


class Settings(ServiceSettings):
    """Read once, in `__main__`."""

    pepper: SecretStr = Field(description="Secret that API keys' digests and the internal token are made with.")
    redis_url: SecretStr = Field(description="Redis of the Feast online store, with its password in the URL.")
    state_dir: Path = Field(description="Directory that uploaded definitions are kept in.")
    registry_url: str = Field(
        default="", description="Base URL of the registry, asked for keys and limits while the bus is silent."
    )
    trusted_proxies: list[Cidr] = Field(default=[], description=TRUSTED_PROXIES)
    redis_timeout_ms: int = Field(
        default=250, ge=1, description="Longest wait for Redis to connect and answer one batch of reads, milliseconds."
    )
    redis_connections: int = Field(default=8, ge=1, description="Most connections to Redis.")
