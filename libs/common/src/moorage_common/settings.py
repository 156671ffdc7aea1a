"""Settings that every service has. Read once, in `__main__`, from `MOORAGE_*` variables."""

from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

TRUSTED_PROXIES = (
    "Networks of the proxies before this service, whose X-Forwarded-For is believed when a key is bound to networks. "
    "A JSON list."
)
"""Description of the setting `trusted_proxies`."""


class ServiceSettings(BaseSettings):
    """The parent of each service's Settings."""

    model_config = SettingsConfigDict(env_prefix="MOORAGE_", extra="ignore")

    host: str = Field(default="127.0.0.1", description="Address the service listens on.")
    port: int = Field(default=0, description="Port the service listens on; 0 takes a free one.")
    ops_host: str = Field(default="127.0.0.1", description="Address of the operations port (health, metrics).")
    ops_port: int = Field(default=0, description="Operations port; 0 takes a free one.")
    nats_url: SecretStr = Field(
        default=SecretStr("nats://127.0.0.1:4222"), description="NATS server, with user and password in the URL."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level logged.")
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto", description="JSON outside a terminal, unless set."
    )
