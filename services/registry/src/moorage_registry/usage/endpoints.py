"""/v1/usage."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query

from moorage_registry.access import require
from moorage_registry.deps import RegistryDep
from moorage_registry.keys.service import Principal
from moorage_registry.usage.models import Usage
from moorage_registry.usage.service import UsageReader, groups_of

router = APIRouter(prefix="/usage")


def _seconds(at: datetime | None) -> float | None:
    if at is None:
        return None
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()


@router.get("", response_model_exclude_none=True)
async def get_usage(
    principal: Annotated[Principal, require("usage:read")],
    registry: RegistryDep,
    by: str = "",
    start: Annotated[datetime | None, Query(alias="from")] = None,
    end: Annotated[datetime | None, Query(alias="to")] = None,
) -> Usage:
    groups = groups_of(by)
    async with registry.db.read() as session:
        return await UsageReader(session, principal.tenant).read(groups, _seconds(start), _seconds(end))
