"""What operators want of each cluster's nodes."""

from sqlalchemy.orm import Mapped, mapped_column

from moorage_common.db import Base


class ClusterRow(Base):
    __tablename__ = "clusters"

    name: Mapped[str] = mapped_column(primary_key=True)
    drained: Mapped[list[str]]
    version: Mapped[int]
