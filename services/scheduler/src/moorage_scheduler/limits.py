"""What every tenant may hold: the `limits` bucket, as the queue tree reads it."""

from dataclasses import dataclass, field

import structlog
from pydantic import ValidationError

from moorage_common.contracts.keys import TenantLimits
from moorage_common.contracts.versioned import Versioned

log = structlog.get_logger()


@dataclass
class LimitsBoard:
    """The limits of each tenant. `version` counts changes, so that what is made of them can be kept until then."""

    tenants: dict[str, TenantLimits] = field(default_factory=dict)
    version: int = 0

    def take(self, key: str, entry: Versioned) -> None:
        """Take an entry of the bucket; a tenant whose limits cannot be read keeps those it had."""
        if entry.value is None:
            self.tenants.pop(key, None)
        else:
            try:
                self.tenants[key] = TenantLimits.model_validate(entry.value)
            except ValidationError as error:
                log.error("unreadable limits ignored", key=key, errors=error.error_count())
                return
        self.version += 1

    def of(self, tenant: str) -> TenantLimits:
        """The tenant's limits, the platform's defaults where it has none yet."""
        return self.tenants.get(tenant) or TenantLimits(tenant=tenant)
