"""Tables of rollouts: what they are, what they saw in the order it was judged, what was decided, who judges."""

from typing import Any

from sqlalchemy import ForeignKeyConstraint, Index, or_
from sqlalchemy.orm import Mapped, mapped_column

from moorage_common.db import Base


class RolloutRow(Base):
    """A rollout. At most one of a deployment is not final: the traffic's `owner` names it.

    `policy` is a `RolloutPolicy`; `stable_before` and `candidate_before` are those `PlacedVersion`s as they were when
    it started (the latter null where the deployment did not hold the candidate), `traffic_before` its arms and rings;
    `capacity` says what is kept running while it runs; `seq` is the number of its last log entry, `verdicts` that of
    its last verdict. `outlook` is the evidence as of an entry, and what is expected. Of a final one, `leaves_at` is
    when the version that lost leaves the deployment; null once it has. `head` is the hash of the last verdict.
    """

    __tablename__ = "rollouts"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    model: Mapped[str]
    stable: Mapped[int]
    candidate: Mapped[int]
    policy: Mapped[dict[str, Any]]
    policy_hash: Mapped[str]
    state: Mapped[str]
    resumes_as: Mapped[str]
    reason: Mapped[str]
    step: Mapped[int]
    step_began_at: Mapped[float]
    started_at: Mapped[float]
    started_by: Mapped[str]
    finished_at: Mapped[float | None]
    stable_before: Mapped[dict[str, Any]]
    candidate_before: Mapped[dict[str, Any] | None]
    traffic_before: Mapped[dict[str, Any]]
    capacity: Mapped[dict[str, Any]]
    outlook: Mapped[dict[str, Any]]
    leaves_at: Mapped[float | None]
    head: Mapped[str]
    seq: Mapped[int]
    verdicts: Mapped[int]

    __table_args__ = (
        ForeignKeyConstraint(["tenant", "model"], ["models.tenant", "models.name"], name="fk_rollouts_model"),
        Index("ix_rollouts_tenant_model", "tenant", "model", "started_at"),
        Index("ix_rollouts_finished_at", "finished_at"),
        Index("ix_rollouts_leaves_at", "leaves_at"),
    )


MOVING = or_(RolloutRow.finished_at.is_(None), RolloutRow.leaves_at.is_not(None))
"""Of rollouts: not final, or the version that lost has yet to leave."""


class RolloutEntryRow(Base):
    """One entry of what a rollout saw, in the order it was judged: folding them again gives the same evidence."""

    __tablename__ = "rollout_entries"

    rollout: Mapped[str] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[float]
    kind: Mapped[str]
    entry: Mapped[dict[str, Any]]

    __table_args__ = (ForeignKeyConstraint(["rollout"], ["rollouts.id"], name="fk_rollout_entries_rollout"),)


class RolloutVerdictRow(Base):
    """One decision and its numbers. `hash` covers the row and `previous`, the hash of the one before it."""

    __tablename__ = "rollout_verdicts"

    rollout: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    seq: Mapped[int]
    at: Mapped[float]
    kind: Mapped[str]
    detail: Mapped[dict[str, Any]]
    previous: Mapped[str]
    hash: Mapped[str]

    __table_args__ = (ForeignKeyConstraint(["rollout"], ["rollouts.id"], name="fk_rollout_verdicts_rollout"),)


class RolloutReadRow(Base):
    """How far a rollout has read the batches of one router process."""

    __tablename__ = "rollout_reads"

    rollout: Mapped[str] = mapped_column(primary_key=True)
    router: Mapped[str] = mapped_column(primary_key=True)
    boot: Mapped[str] = mapped_column(primary_key=True)
    seq: Mapped[int]

    __table_args__ = (ForeignKeyConstraint(["rollout"], ["rollouts.id"], name="fk_rollout_reads_rollout"),)


class ControllerLeaseRow(Base):
    """Which registry moves rollouts. `fencing` grows with each new holder."""

    __tablename__ = "controller_lease"

    name: Mapped[str] = mapped_column(primary_key=True)
    holder: Mapped[str]
    fencing: Mapped[int]
    expires_at: Mapped[float]
