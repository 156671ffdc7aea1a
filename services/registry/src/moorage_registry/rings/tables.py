"""Table of rings."""

from sqlalchemy.orm import Mapped, mapped_column

from moorage_common.db import Base


class RingRow(Base):
    """A named group of a tenant's callers: by the values of a header, or by the ids of their keys."""

    __tablename__ = "rings"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    header: Mapped[str]
    values: Mapped[list[str]]
    kids: Mapped[list[str]]
    version: Mapped[int]
    updated_at: Mapped[float]
