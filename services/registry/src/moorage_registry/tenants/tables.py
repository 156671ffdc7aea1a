"""Tables of tenants, and the epoch of everything the registry publishes."""

from typing import Any

from sqlalchemy.orm import Mapped, mapped_column

from moorage_common.db import Base


class TenantRow(Base):
    """A tenant. A deleted one's row stays, so its name is never given again.

    `deletion` is `{asked_at, asked_by, waits_for}` of one that is being deleted, or was.
    """

    __tablename__ = "tenants"

    name: Mapped[str] = mapped_column(primary_key=True)
    status: Mapped[str]
    requests_per_s: Mapped[float]
    burst: Mapped[int]
    max_concurrent: Mapped[int]
    max_body_bytes: Mapped[int]
    gpu_milli: Mapped[int]
    cpu_milli: Mapped[int]
    mem_mib: Mapped[int]
    gpu_shares: Mapped[list[dict[str, Any]]]
    allow_code: Mapped[bool]
    on_store_loss: Mapped[str]
    plan: Mapped[str]
    weight: Mapped[float]
    model_rates: Mapped[list[dict[str, Any]]]
    requests_per_month: Mapped[int | None]
    version: Mapped[int]
    created_at: Mapped[float]
    deletion: Mapped[dict[str, Any] | None]


class EpochRow(Base):
    """One row. An operator raises it after restoring a backup, so that what is then published wins."""

    __tablename__ = "epoch"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    epoch: Mapped[int]
