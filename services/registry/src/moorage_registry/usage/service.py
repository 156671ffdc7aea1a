"""What a tenant used, grouped as it asks."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from moorage_common.clock import rfc3339
from moorage_common.contracts.names import TenantId
from moorage_common.errors import Unprocessable
from moorage_registry.usage.models import Group, Usage, UsageLine, UsageSums
from moorage_registry.usage.repository import SUMS, LedgerRepository

_GROUPS: dict[str, Group] = {"model": "model", "version": "version", "key": "key", "hour": "hour"}


def groups_of(by: str) -> list[Group]:
    """`model,version` as groups, each once. Raises Unprocessable."""
    names = [name.strip() for name in by.split(",") if name.strip()]
    unknown = [name for name in names if name not in _GROUPS]
    if unknown:
        message = f"usage is not grouped by {unknown[0]!r}; group by any of {', '.join(_GROUPS)}"
        raise Unprocessable(message, code="unknown_group")
    return list(dict.fromkeys(_GROUPS[name] for name in names))


@dataclass(frozen=True)
class UsageReader:
    session: AsyncSession
    tenant: TenantId

    async def read(self, by: Sequence[Group], start: float | None, end: float | None) -> Usage:
        """Sums for the hours that begin in [start, end), seconds since 1970; one line where `by` is empty."""
        found = await LedgerRepository(self.session).sums(self.tenant, by, start, end)
        lines = []
        for row in found:
            told = {**row, "hour": rfc3339(float(row["hour"]))} if "hour" in row else row
            lines.append(UsageLine.model_validate(told))
        total = UsageSums(**{name: sum(int(row[name]) for row in found) for name in SUMS})
        return Usage(rows=lines, total=total)
