"""Table of the audit log."""

from typing import Any

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from moorage_common.db import Base, RowNumber


class AuditRow(Base):
    """One change: `actor` is the kid that asked for it, or the process that reported it."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(RowNumber, primary_key=True)
    tenant: Mapped[str]
    at: Mapped[float]
    actor: Mapped[str]
    action: Mapped[str]
    target: Mapped[str]
    detail: Mapped[dict[str, Any]]

    __table_args__ = (Index("ix_audit_tenant_id", "tenant", "id"),)
