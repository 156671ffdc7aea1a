"""Table of API keys: never the key itself."""

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from moorage_common.db import Base


class KeyRow(Base):
    __tablename__ = "api_keys"

    kid: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.name"), index=True)
    digest: Mapped[str]
    pepper_version: Mapped[int]
    environment: Mapped[str]
    scopes: Mapped[list[str]]
    not_before: Mapped[float]
    expires_at: Mapped[float | None]
    revoked_at: Mapped[float | None]
    version: Mapped[int]
    created_at: Mapped[float]
    created_by: Mapped[str]
