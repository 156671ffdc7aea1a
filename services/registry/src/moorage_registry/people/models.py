"""What is said about people over HTTP."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from moorage_common.contracts.names import Name
from moorage_common.contracts.roles import Role
from moorage_registry.instants import Instant
from moorage_registry.people.tokens import NAME_MAX, SUBJECT_MAX, TOKEN_MAX, Taken

PersonName = Annotated[
    str, StringConstraints(strip_whitespace=True, max_length=NAME_MAX, pattern=r"^[^\x00-\x1f\x7f]*$")
]
Subject = Annotated[str, StringConstraints(min_length=1, max_length=SUBJECT_MAX, pattern=r"^[!-.0-~]+$")]
"""The `sub` of a person's tokens: printable ASCII, no slash."""


class Identity(BaseModel):
    """How people sign in here. Without a provider the other fields are empty."""

    identity: Literal["keycloak", "oidc", "none"]
    issuer: str = ""
    client_id: str = ""
    token: Taken | None = Field(default=None, description="Which of the provider's tokens POST /v1/sessions takes.")
    router: str = Field(default="", description="The router's address, where the registry knows it.")


class NewSession(BaseModel):
    """Body of `POST /v1/sessions`."""

    model_config = ConfigDict(extra="forbid")

    token: str = Field(min_length=1, max_length=TOKEN_MAX, description="Of the identity provider, for this platform.")
    tenant: Name | None = Field(default=None, description="Needed by who is a member of several.")


class CreatedSession(BaseModel):
    """A person's key of 8 hours: shown this once."""

    key: str
    kid: str
    tenant: str
    subject: str
    name: str
    role: Role
    scopes: list[str]
    expires_at: Instant


class NewMember(BaseModel):
    """Body of `PUT /v1/members/{subject}`."""

    model_config = ConfigDict(extra="forbid")

    role: Role
    name: PersonName | None = Field(default=None, description="For people to read; left out: as it is.")


class Member(BaseModel):
    subject: str
    name: str
    role: Role
    created_at: Instant
    created_by: str


class MemberList(BaseModel):
    members: list[Member]
