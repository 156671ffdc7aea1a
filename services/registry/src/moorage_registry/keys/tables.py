"""Table of API keys and people's session keys: never the key itself."""

from typing import Any

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
    name: Mapped[str]
    cidrs: Mapped[list[str]]
    rate: Mapped[dict[str, Any] | None]
    subject: Mapped[str] = mapped_column(index=True)
    replaced_by: Mapped[str | None]
    last_used_at: Mapped[float | None]
