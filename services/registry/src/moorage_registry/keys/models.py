"""What is said about API keys over HTTP."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from moorage_common.contracts.keys import Rate
from moorage_common.networks import Cidr
from moorage_registry.instants import Instant

LONGEST_S = 10 * 365 * 86_400
OVERLAP_S = 86_400.0

KeyName = Annotated[str, StringConstraints(strip_whitespace=True, max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")]
"""What people call a key; empty for none."""
Lifetime = Annotated[float, Field(gt=0, le=LONGEST_S)]
"""Seconds from now."""
Cidrs = Annotated[list[Cidr], Field(max_length=64)]


class RateSpec(Rate):
    """A rate as people write it: a misspelt field is refused rather than ignored."""

    model_config = ConfigDict(extra="forbid")


class NewKey(BaseModel):
    """Body of `POST /v1/keys`. Networks, rate and expiry that are left out are those of the key that makes it."""

    model_config = ConfigDict(extra="forbid")

    scopes: list[str] = Field(min_length=1, max_length=64)
    name: KeyName = ""
    environment: Literal["live", "test"] = "live"
    cidrs: Cidrs = []
    rate: RateSpec | None = None
    expires_in_s: Lifetime | None = None


class KeyChange(BaseModel):
    """Body of `PATCH /v1/keys/{kid}`: what is given is set, the rest stays. An end is only brought nearer."""

    model_config = ConfigDict(extra="forbid")

    name: KeyName | None = None
    cidrs: Cidrs | None = None
    rate: RateSpec | None = None
    expires_in_s: Lifetime | None = None


class Rotation(BaseModel):
    """Body of `POST /v1/keys/{kid}/rotate`: how long the old key goes on being good."""

    model_config = ConfigDict(extra="forbid")

    overlap_s: float = Field(default=OVERLAP_S, ge=0, le=30 * 86_400)


class LeakReport(BaseModel):
    """Body of `POST /v1/keys/leaked`: the text of a key that was seen where it should not be."""

    model_config = ConfigDict(extra="forbid")

    key: str = Field(min_length=1, max_length=512)


class LeakTaken(BaseModel):
    """The answer to every report, whether there is such a key or not."""

    taken: Literal[True] = True


class KeyInfo(BaseModel):
    """A key without its secret."""

    kid: str
    tenant: str
    name: str
    environment: str
    scopes: list[str]
    cidrs: list[str]
    rate: Rate | None
    subject: str = Field(description="The person whose session key it is; empty for API keys.")
    created_at: Instant
    created_by: str
    expires_at: Instant | None
    revoked_at: Instant | None
    replaced_by: str | None
    last_used_at: Instant | None = Field(description="To a minute; within the hour for requests.")


class CreatedKey(KeyInfo):
    """A key that was just made, with its text: shown this once."""

    key: str


class KeyList(BaseModel):
    keys: list[KeyInfo]


class WhoAmI(BaseModel):
    tenant: str
    kid: str
    scopes: list[str]
    subject: str = Field(default="", description="The person whose session it is; empty for API keys.")
