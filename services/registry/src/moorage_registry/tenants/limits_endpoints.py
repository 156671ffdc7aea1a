"""/v1/limits: what tenants may do, and how much of the month they have used."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field

from moorage_common.clock import rfc3339
from moorage_common.contracts.keys import TenantLimits
from moorage_common.contracts.names import TenantId
from moorage_common.contracts.quota import month_bounds, month_of
from moorage_registry.access import ANY_KEY, require
from moorage_registry.deps import RegistryDep
from moorage_registry.keys.service import PLATFORM, Principal
from moorage_registry.tenants.repository import TenantRepository
from moorage_registry.tenants.service import existing, limits_of
from moorage_registry.usage.reservations import ReservationRepository

router = APIRouter(prefix="/limits")


class MonthOfTenant(BaseModel):
    """The calendar month that runs, UTC."""

    month: str
    used: int = Field(description="Requests answered with 200 that the ledger holds.")
    reserved: int = Field(description="What routers may let pass, or have not shipped yet.")
    limit: int | None = Field(description="Requests a month; null: no bound.")
    resets_at: str = Field(description="RFC 3339.")


class LimitsOfTenant(BaseModel):
    tenant: str
    limits: TenantLimits
    month: MonthOfTenant


class LimitsList(BaseModel):
    tenants: list[LimitsOfTenant]


@router.get("")
async def get_limits(principal: Annotated[Principal, require(ANY_KEY)], registry: RegistryDep) -> LimitsList:
    """The tenant's limits and month; every tenant's to an operator."""
    everyone = principal.is_admin and principal.tenant == PLATFORM
    now = registry.clock()
    month = month_of(now)
    async with registry.db.read() as session:
        tenants = TenantRepository(session)
        rows = await tenants.all() if everyone else [await existing(tenants, TenantId(principal.tenant))]
        months = await ReservationRepository(session).months(month, None if everyone else principal.tenant, now)
    ends = rfc3339(month_bounds(month)[1])
    found = []
    for row in rows:
        used, reserved = months.get(row.name, (0, 0))
        told = MonthOfTenant(
            month=month, used=used, reserved=reserved, limit=row.requests_per_month, resets_at=ends
        )  # fmt: skip
        found.append(LimitsOfTenant(tenant=row.name, limits=limits_of(row), month=told))
    return LimitsList(tenants=found)
