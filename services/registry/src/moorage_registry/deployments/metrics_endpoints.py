"""/v1/metrics: a tenant's own series, for its own Prometheus."""

from typing import Annotated

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from moorage_registry.access import require
from moorage_registry.deployments.tenant_metrics import Series, render
from moorage_registry.deps import RegistryDep
from moorage_registry.keys.service import Principal
from moorage_registry.tenants.repository import TenantRepository
from moorage_registry.tenants.service import existing, limits_of
from moorage_registry.usage.repository import LedgerRepository

router = APIRouter(prefix="/metrics")


@router.get("", response_class=PlainTextResponse)
async def get_metrics(
    principal: Annotated[Principal, require("metrics:read")], registry: RegistryDep
) -> PlainTextResponse:
    async with registry.db.read() as session:
        usage = await LedgerRepository(session).sums(principal.tenant, ("model", "version"), None, None)
        limits = limits_of(await existing(TenantRepository(session), principal.tenant))
    series = Series(
        tenant=principal.tenant,
        statuses=registry.status.all_of(principal.tenant),
        usage=usage,
        limits=limits,
        in_flight=registry.loads.in_flight(principal.tenant),
        routers=await registry.router_series.gather(principal.tenant),
    )
    return PlainTextResponse(render(series), media_type=CONTENT_TYPE_LATEST)
