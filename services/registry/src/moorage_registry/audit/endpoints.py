"""/v1/audit."""

from typing import Annotated

from fastapi import APIRouter, Query

from moorage_registry.access import require
from moorage_registry.audit.models import AuditEntry, AuditPage
from moorage_registry.audit.repository import AuditRepository
from moorage_registry.deps import RegistryDep
from moorage_registry.keys.service import Principal

router = APIRouter(prefix="/audit")


@router.get("")
async def get_audit(
    principal: Annotated[Principal, require("keys:admin")],
    registry: RegistryDep,
    before: Annotated[int | None, Query(ge=1)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> AuditPage:
    async with registry.db.read() as session:
        rows = await AuditRepository(session).page(principal.tenant, before, limit)
    entries = [AuditEntry.model_validate(row, from_attributes=True) for row in rows]
    return AuditPage(entries=entries, next_before=rows[-1].id if len(rows) == limit else None)
