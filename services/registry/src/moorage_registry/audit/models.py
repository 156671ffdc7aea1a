"""What is said about the audit log over HTTP."""

from typing import Any

from pydantic import BaseModel

from moorage_registry.instants import Instant


class AuditEntry(BaseModel):
    id: int
    at: Instant
    actor: str
    action: str
    target: str
    detail: dict[str, Any]


class AuditPage(BaseModel):
    """Newest first; `next_before` asks for the page after this one."""

    entries: list[AuditEntry]
    next_before: int | None
