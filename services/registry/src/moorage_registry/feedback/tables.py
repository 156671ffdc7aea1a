"""Tables of answers that are kept and of the labels that came back for them."""

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from moorage_common.db import Base, RowNumber


class OutputRow(Base):
    """The compact output of one answered request, and of its copy where another version got one."""

    __tablename__ = "outputs"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    ulid: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str]
    version: Mapped[int]
    at: Mapped[float]
    kind: Mapped[str]
    value: Mapped[str]
    other_version: Mapped[int | None]
    other_value: Mapped[str | None]

    __table_args__ = (Index("ix_outputs_tenant_at", "tenant", "at"), Index("ix_outputs_at", "at"))


class LabelRow(Base):
    """What came back about one answer, by order of arrival; a second label for the same answer is none.

    `wrong` is null while the answer it speaks of has not arrived, and where only a loss is known; `other_wrong` is of
    the copy's answer. `settled` is the number in order of settling, which is what rollouts read by; 0 until then.
    """

    __tablename__ = "labels"

    id: Mapped[int] = mapped_column(RowNumber, primary_key=True)
    tenant: Mapped[str]
    ulid: Mapped[str]
    model: Mapped[str]
    version: Mapped[int]
    answered_at: Mapped[float]
    at: Mapped[float]
    label: Mapped[str | None]
    wrong: Mapped[bool | None]
    loss: Mapped[float | None]
    other_version: Mapped[int | None]
    other_wrong: Mapped[bool | None]
    other_loss: Mapped[float | None]
    settled: Mapped[int]

    __table_args__ = (
        Index("uq_labels_tenant_ulid", "tenant", "ulid", unique=True),
        Index("ix_labels_tenant_model_settled", "tenant", "model", "settled"),
        Index("ix_labels_at", "at"),
    )


class FeedbackCountRow(Base):
    """What there is of one model. `settled` is the last number given out, which outlives the labels that had it.

    `outputs` and `labels` are those held now; `lost` counts labels that were dropped without their answer having come.
    """

    __tablename__ = "feedback_counts"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(primary_key=True)
    settled: Mapped[int]
    outputs: Mapped[int]
    labels: Mapped[int]
    lost: Mapped[int]
