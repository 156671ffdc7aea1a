"""Making tenants and setting their limits."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from moorage_common.contracts.keys import TenantLimits
from moorage_common.contracts.names import TenantId
from moorage_common.errors import Conflict, NotFound, Unprocessable
from moorage_registry.keys.service import PLATFORM
from moorage_registry.tenants.models import Deletion, LimitsChange, Tenant
from moorage_registry.tenants.repository import CLOSED, TenantRepository
from moorage_registry.tenants.tables import TenantRow
from moorage_registry.work import Work


def limits_of(row: TenantRow) -> TenantLimits:
    fields = {name: getattr(row, name) for name in TenantLimits.model_fields if name != "tenant"}
    return TenantLimits(tenant=row.name, **fields)


def tenant_of(row: TenantRow, remaining: Mapping[str, int] | None = None) -> Tenant:
    """The tenant as it is told, with what `remaining` there is of one that is being deleted."""
    deletion = None if row.deletion is None else Deletion(**row.deletion, remaining=dict(remaining or {}))
    told = {"name": row.name, "status": row.status, "limits": limits_of(row), "created_at": row.created_at}
    return Tenant.model_validate({**told, "deletion": deletion})


def check_shares(limits: TenantLimits) -> None:
    """Raises Unprocessable where the queue tree's entries contradict each other or the tenant's GPU limit."""
    models = [share.gpu_model for share in limits.gpu_shares]
    twice = sorted({model for model in models if models.count(model) > 1})
    if twice:
        named = ", ".join(model or '"" (all other models)' for model in twice)
        raise Unprocessable(f"gpu_shares has several entries for {named}; give one a model", code="gpu_share_twice")
    guaranteed = sum(share.guaranteed_milli for share in limits.gpu_shares)
    if guaranteed > limits.gpu_milli:
        message = (
            f"the guarantees add up to {guaranteed / 1000:g} GPU and the tenant may hold {limits.gpu_milli / 1000:g}; "
            "raise gpu_milli, or lower guaranteed_milli"
        )
        raise Unprocessable(message, code="gpu_share_over_limit")


def check_rates(limits: TenantLimits) -> None:
    """Raises Unprocessable where a model has several rates."""
    models = [rate.model for rate in limits.model_rates]
    twice = sorted({model for model in models if models.count(model) > 1})
    if twice:
        message = f"model_rates has several entries for {', '.join(twice)}; give a model one"
        raise Unprocessable(message, code="model_rate_twice")


def closed(name: str) -> Conflict:
    message = f"the tenant {name} is deleted and takes no changes; GET /v1/tenants/{name} says how far that is"
    return Conflict(message, code="tenant_closed")


def no_tenant(name: str) -> NotFound:
    return NotFound(f"there is no tenant {name}", code="tenant_not_found")


@dataclass(frozen=True)
class TenantService:
    """Changes the tenant that `work` is for."""

    work: Work

    async def create(self, limits: LimitsChange) -> Tenant:
        """Raises Conflict when the name is taken; Unprocessable as `check_shares` and `check_rates` do."""
        tenant = await self.ensure(limits)
        if tenant is None:
            message = f"there is a tenant {self.work.tenant} already, or was one; choose another name"
            raise Conflict(message, code="tenant_exists")
        return tenant

    async def ensure(self, limits: LimitsChange) -> Tenant | None:
        """Make the tenant, or None when it is there already."""
        name = self.work.tenant
        whole = TenantLimits(tenant=name, **limits.given())
        check_shares(whole)
        check_rates(whole)
        wanted = whole.model_dump(exclude={"tenant"})
        row = TenantRow(name=name, version=1, created_at=self.work.now, deletion=None, **wanted)
        if not await TenantRepository(self.work.session).add(row):
            return None
        self.work.touch("limits", name)
        self.work.happened("tenant.created", f"tenants/{name}", 1, limits=wanted)
        return tenant_of(row)

    async def set_limits(self, change: LimitsChange) -> TenantLimits:
        """Raises NotFound; Conflict where operators would lock themselves out, or the tenant is being deleted;
        Unprocessable as the checks do."""
        name = self.work.tenant
        row = await TenantRepository(self.work.session).get(name, lock=True)
        if row is None:
            raise no_tenant(name)
        if row.status in CLOSED:
            raise closed(name)
        if name == PLATFORM and change.status == "suspended":
            raise Conflict("the operators' own tenant cannot be suspended", code="platform_tenant")
        changed = {key: value for key, value in change.given().items() if getattr(row, key) != value}
        whole = TenantLimits.model_validate({**limits_of(row).model_dump(), **changed})
        check_shares(whole)
        check_rates(whole)
        if changed:
            for key, value in changed.items():
                setattr(row, key, value)
            row.version += 1
            self.work.touch("limits", name)
            self.work.happened("tenant.changed", f"tenants/{name}", row.version, limits=changed)
        return limits_of(row)

    async def suspend(self) -> Tenant:
        """Have its keys refused everywhere; nothing of it is stopped or lost. Raises NotFound, Conflict."""
        return await self._become("suspended")

    async def resume(self) -> Tenant:
        """Have its keys accepted again. Raises NotFound, Conflict."""
        return await self._become("active")

    async def _become(self, status: Literal["active", "suspended"]) -> Tenant:
        await self.set_limits(LimitsChange(status=status))
        return tenant_of(await existing(TenantRepository(self.work.session), self.work.tenant))

    async def delete(self, confirm: str) -> TenantRow:
        """Begin to delete the tenant: from now on nothing of it is taken or served, and it cannot be undone.

        Asked again, it changes nothing. Raises NotFound; Unprocessable unless `confirm` is its name; Conflict for the
        operators' own.
        """
        name = self.work.tenant
        row = await TenantRepository(self.work.session).lock_out(name)
        if row is None:
            raise no_tenant(name)
        if confirm != name:
            message = f"this deletes all that {name} has, for good; confirm it with ?confirm={name}"
            raise Unprocessable(message, code="deletion_not_confirmed")
        if name == PLATFORM:
            raise Conflict("the operators' own tenant cannot be deleted", code="platform_tenant")
        if row.status not in CLOSED:
            row.status = "deleting"
            row.version += 1
            row.deletion = {"asked_at": self.work.now, "asked_by": self.work.actor, "waits_for": ""}
            self.work.touch("limits", name)
            self.work.happened("tenant.changed", f"tenants/{name}", row.version, limits={"status": row.status})
        return row


async def check_open(work: Work) -> None:
    """Whether the tenant may be changed; none begins to be deleted before `work` ends. Raises Conflict."""
    if await TenantRepository(work.session).status_held(work.tenant) in CLOSED:
        raise closed(work.tenant)


async def existing(repository: TenantRepository, tenant: TenantId) -> TenantRow:
    """The tenant. Raises NotFound."""
    row = await repository.get(tenant)
    if row is None:
        raise no_tenant(tenant)
    return row
