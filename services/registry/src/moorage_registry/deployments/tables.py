"""Tables of deployments, their immutable revisions, their traffic and the replicas last seen."""

from typing import Any

from sqlalchemy import ForeignKeyConstraint
from sqlalchemy.orm import Mapped, mapped_column

from moorage_common.db import Base


class DeploymentRow(Base):
    """A deployment bears its model's name. Deleted ones stay: revisions go on where they stopped."""

    __tablename__ = "deployments"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(primary_key=True)
    revision: Mapped[int]
    deleted: Mapped[bool]
    created_at: Mapped[float]
    updated_at: Mapped[float]

    __table_args__ = (
        ForeignKeyConstraint(["tenant", "model"], ["models.tenant", "models.name"], name="fk_deployments_model"),
    )


class RevisionRow(Base):
    """What a deployment was told to be at one revision: `Revision` of `models`, as JSON."""

    __tablename__ = "deployment_revisions"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(primary_key=True)
    revision: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    spec: Mapped[dict[str, Any]]
    created_at: Mapped[float]
    created_by: Mapped[str]

    __table_args__ = (
        ForeignKeyConstraint(
            ["tenant", "model"], ["deployments.tenant", "deployments.model"], name="fk_revisions_deployment"
        ),
    )


class TrafficRow(Base):
    """Arms of a deployment. `owner` is `manual`, or `rollout:<id>` while a rollout moves the weights.

    `rings` are those whose callers get a version before others: `{name, version, weight_bp}`.
    """

    __tablename__ = "traffic"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(primary_key=True)
    arms: Mapped[list[dict[str, Any]]]
    stickiness: Mapped[dict[str, Any] | None]
    rings: Mapped[list[dict[str, Any]]]
    owner: Mapped[str]
    revision: Mapped[int]

    __table_args__ = (
        ForeignKeyConstraint(
            ["tenant", "model"], ["deployments.tenant", "deployments.model"], name="fk_traffic_deployment"
        ),
    )


class ReplicaRow(Base):
    """A replica as last reported; kept to tell what a new report changes."""

    __tablename__ = "replicas"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(primary_key=True)
    cluster: Mapped[str] = mapped_column(primary_key=True)
    host_id: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str]
    restarts: Mapped[int]
    updated_at: Mapped[float]

    __table_args__ = (
        ForeignKeyConstraint(["tenant", "model"], ["models.tenant", "models.name"], name="fk_replicas_model"),
    )
