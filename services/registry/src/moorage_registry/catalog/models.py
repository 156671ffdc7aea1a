"""What is said about models, versions and artifacts over HTTP."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from moorage_common.contracts.tensors import Signature
from moorage_registry.instants import Instant

DIGEST_PATTERN = r"^sha256:[0-9a-f]{64}$"

Short = Annotated[str, Field(max_length=128)]

VersionState = Literal["uploaded", "validating", "ready", "rejected"]


class Artifact(BaseModel):
    digest: str
    size_bytes: int


class NewVersion(BaseModel):
    """Body of `POST /v1/models/{model}/versions`.

    `format` is any text here, so that a format which is not served is refused with the way out.
    """

    model_config = ConfigDict(extra="forbid")

    artifact_digest: str = Field(pattern=DIGEST_PATTERN)
    format: str = Field(max_length=32)
    signature: Signature
    libraries: dict[Short, Short] = Field(default={}, max_length=64)
    examples_digest: str | None = Field(default=None, pattern=DIGEST_PATTERN)
    feature_service: str | None = Field(default=None, min_length=1, max_length=128)
    force_new: bool = False


class Validation(BaseModel):
    """What came of the run on a replica host."""

    state: Literal["passed", "rejected", "unchecked"]
    reason: str
    max_abs_diff: float | None
    libraries: dict[str, str]
    at: Instant | None


class Version(BaseModel):
    model: str
    version: int
    state: VersionState
    unchecked: bool
    reason: str
    artifact_digest: str
    size_bytes: int
    format: str
    signature: Signature
    libraries: dict[str, str]
    examples_digest: str | None
    feature_service: str | None
    feature_fingerprint: str | None
    features: list[str]
    created_at: Instant
    created_by: str
    validation: Validation | None


class VersionList(BaseModel):
    versions: list[Version]


class Model(BaseModel):
    """A model; `latest` is its highest version that was not rejected."""

    model: str
    versions: int
    latest: int | None
    created_at: Instant


class ModelList(BaseModel):
    models: list[Model]
