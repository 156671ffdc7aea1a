"""Table of memberships: which person has which role in which tenant."""

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from moorage_common.db import Base


class MembershipRow(Base):
    """`subject` is the `sub` of the person's tokens."""

    __tablename__ = "memberships"

    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.name"), primary_key=True)
    subject: Mapped[str] = mapped_column(primary_key=True, index=True)
    role: Mapped[str]
    name: Mapped[str]
    version: Mapped[int]
    created_at: Mapped[float]
    created_by: Mapped[str]
