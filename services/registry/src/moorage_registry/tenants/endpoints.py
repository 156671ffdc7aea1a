"""/v1/tenants."""

from typing import Annotated

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from moorage_common.contracts.keys import TenantLimits
from moorage_common.contracts.names import TenantId
from moorage_common.openapi import answered_as
from moorage_registry.access import ANY_KEY, require
from moorage_registry.deps import RegistryDep
from moorage_registry.keys.scopes import ADMIN
from moorage_registry.keys.service import Principal
from moorage_registry.tenants.export import Export
from moorage_registry.tenants.models import LimitsChange, NewTenant, Tenant, TenantList
from moorage_registry.tenants.plans import begun, planned
from moorage_registry.tenants.removal import remains
from moorage_registry.tenants.repository import CLOSED, TenantRepository
from moorage_registry.tenants.service import TenantService, closed, existing, no_tenant, tenant_of

router = APIRouter(prefix="/tenants")

Operator = Annotated[Principal, require(ADMIN)]


@router.post("", status_code=201)
async def create_tenant(body: NewTenant, principal: Operator, registry: RegistryDep) -> Tenant:
    async with registry.works.begin(TenantId(body.name), principal.kid) as work:
        return await TenantService(work).create(begun(body.limits, registry.settings.plans))


@router.get("")
async def list_tenants(_principal: Operator, registry: RegistryDep) -> TenantList:
    async with registry.db.read() as session:
        return TenantList(tenants=[tenant_of(row) for row in await TenantRepository(session).all()])


@router.get("/{tenant}")
async def get_tenant(tenant: str, principal: Annotated[Principal, require(ANY_KEY)], registry: RegistryDep) -> Tenant:
    if tenant != principal.tenant and not principal.is_admin:
        raise no_tenant(tenant)
    async with registry.db.read() as session:
        row = await existing(TenantRepository(session), TenantId(tenant))
        return tenant_of(row, await remains(session, TenantId(tenant)) if row.status == "deleting" else None)


@router.put("/{tenant}/limits")
async def set_limits(tenant: str, body: LimitsChange, principal: Operator, registry: RegistryDep) -> TenantLimits:
    async with registry.works.begin(TenantId(tenant), principal.kid) as work:
        return await TenantService(work).set_limits(planned(body, registry.settings.plans))


@router.post("/{tenant}/suspend")
async def suspend_tenant(tenant: str, principal: Operator, registry: RegistryDep) -> Tenant:
    """Refuse its keys, within a second, at every door. What runs goes on, and nothing is lost."""
    async with registry.works.begin(TenantId(tenant), principal.kid) as work:
        return await TenantService(work).suspend()


@router.post("/{tenant}/resume")
async def resume_tenant(tenant: str, principal: Operator, registry: RegistryDep) -> Tenant:
    async with registry.works.begin(TenantId(tenant), principal.kid) as work:
        return await TenantService(work).resume()


@router.delete("/{tenant}", status_code=202)
async def delete_tenant(tenant: str, principal: Operator, registry: RegistryDep, confirm: str = "") -> Tenant:
    """Remove all that the tenant has, in the background; its ledger and audit trail stay, and so does its name."""
    name = TenantId(tenant)
    async with registry.works.begin(name, principal.kid) as work:
        row = await TenantService(work).delete(confirm)
        told = tenant_of(row, await remains(work.session, name) if row.status == "deleting" else None)
    registry.deletions.wake()
    return told


@router.get("/{tenant}/export", response_class=StreamingResponse, responses=answered_as("application/x-tar"))
async def export_tenant(
    tenant: str, principal: Annotated[Principal, require("keys:admin")], registry: RegistryDep
) -> StreamingResponse:
    """All that the tenant has as a tar stream; without its last member, `complete.json`, it was broken off."""
    if tenant != principal.tenant and not principal.is_admin:
        raise no_tenant(tenant)
    async with registry.db.read() as session:
        row = await existing(TenantRepository(session), TenantId(tenant))
    if row.status in CLOSED:
        raise closed(tenant)
    async with registry.works.begin(TenantId(tenant), principal.kid) as work:
        work.audit("tenant.exported", f"tenants/{tenant}")
    export = Export(registry.db, registry.blobs, TenantId(tenant), registry.clock)
    headers = {"content-disposition": f'attachment; filename="{tenant}.tar"', "cache-control": "no-store"}
    return StreamingResponse(export.stream(), media_type="application/x-tar", headers=headers)
