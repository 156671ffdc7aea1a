"""What is said about API keys over HTTP."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from moorage_registry.instants import Instant


class NewKey(BaseModel):
    """Body of `POST /v1/keys`."""

    model_config = ConfigDict(extra="forbid")

    scopes: list[str] = Field(min_length=1, max_length=64)
    environment: Literal["live", "test"] = "live"
    expires_in_s: float | None = Field(default=None, gt=0, le=10 * 365 * 86_400)


class KeyInfo(BaseModel):
    """A key without its secret."""

    kid: str
    tenant: str
    environment: str
    scopes: list[str]
    created_at: Instant
    created_by: str
    expires_at: Instant | None
    revoked_at: Instant | None


class CreatedKey(KeyInfo):
    """A key that was just made, with its text: shown this once."""

    key: str


class KeyList(BaseModel):
    keys: list[KeyInfo]


class WhoAmI(BaseModel):
    tenant: str
    kid: str
    scopes: list[str]
