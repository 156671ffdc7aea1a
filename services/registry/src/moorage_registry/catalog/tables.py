"""Tables of models, versions and artifacts."""

from typing import Any

from sqlalchemy import ForeignKey, ForeignKeyConstraint, Index
from sqlalchemy.orm import Mapped, mapped_column

from moorage_common.db import Base


class ModelRow(Base):
    """A model. `revision` grows with every change of what is published about it: routes and desired state."""

    __tablename__ = "models"

    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.name"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    last_version: Mapped[int]
    revision: Mapped[int]
    created_at: Mapped[float]


class ArtifactRow(Base):
    """A blob of one tenant. Tenants do not share blobs, so nobody learns by digest what another holds."""

    __tablename__ = "artifacts"

    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.name"), primary_key=True)
    digest: Mapped[str] = mapped_column(primary_key=True)
    size_bytes: Mapped[int]
    created_at: Mapped[float]


class VersionRow(Base):
    """An immutable version; only its state moves: uploaded, validating, ready or rejected."""

    __tablename__ = "versions"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str]
    unchecked: Mapped[bool]
    reason: Mapped[str]
    artifact_digest: Mapped[str]
    format: Mapped[str]
    signature: Mapped[dict[str, Any]]
    libraries: Mapped[dict[str, str]]
    examples_digest: Mapped[str | None]
    feature_service: Mapped[str | None]
    feature_fingerprint: Mapped[str | None]
    features: Mapped[list[str]]
    feature_entities: Mapped[list[str]]
    content_digest: Mapped[str]
    run_id: Mapped[str]
    max_abs_diff: Mapped[float | None]
    validated_libraries: Mapped[dict[str, str]]
    validated_at: Mapped[float | None]
    created_at: Mapped[float]
    created_by: Mapped[str]

    __table_args__ = (
        ForeignKeyConstraint(["tenant", "model"], ["models.tenant", "models.name"], name="fk_versions_model"),
        ForeignKeyConstraint(
            ["tenant", "artifact_digest"], ["artifacts.tenant", "artifacts.digest"], name="fk_versions_artifact"
        ),
        ForeignKeyConstraint(
            ["tenant", "examples_digest"], ["artifacts.tenant", "artifacts.digest"], name="fk_versions_examples"
        ),
        Index("ix_versions_content", "tenant", "model", "content_digest"),
    )
