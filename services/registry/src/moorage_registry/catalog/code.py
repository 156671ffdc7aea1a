"""Versions that are a tenant's code: who may have them, and how they run."""

from collections.abc import Iterable, Mapping

from sqlalchemy.ext.asyncio import AsyncSession

from moorage_common.contracts.desired import Isolation
from moorage_common.contracts.names import TenantId
from moorage_common.contracts.tensors import CODE_FORMATS
from moorage_common.errors import Forbidden, Unprocessable
from moorage_registry.tenants.repository import TenantRepository


async def check_allowed(session: AsyncSession, tenant: TenantId, formats: Iterable[str]) -> None:
    """Raises Forbidden when one of the formats is code and no administrator has let the tenant run any."""
    code = sorted(CODE_FORMATS & set(formats))
    if not code:
        return
    row = await TenantRepository(session).get(tenant)
    if row is None or not row.allow_code:
        message = (
            f"{code[0]} versions run a tenant's own code, which is not allowed to {tenant}; ask the operator for it "
            f"(PUT /v1/tenants/{tenant}/limits with allow_code: true), or push a data format"
        )
        raise Forbidden(message, code="code_not_allowed")


def check_isolation(formats: Mapping[int, str], isolation: Mapping[int, Isolation]) -> None:
    """Raises Unprocessable when a version that is code would share a process. Both are by version number."""
    for number, wanted in isolation.items():
        if formats.get(number) in CODE_FORMATS and wanted != "dedicated":
            message = f"version {number} is {formats[number]}, which runs code; set its isolation to dedicated"
            raise Unprocessable(message, code="dedicated_only")
