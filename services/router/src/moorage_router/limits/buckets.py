"""What is limited: all of a tenant's requests, those of a key, those of a model. Pure."""

import math
from dataclasses import dataclass
from typing import Literal

from moorage_common.contracts.keys import Rate, TenantLimits

Kind = Literal["requests", "key", "model"]
StoreLoss = Literal["local", "closed", "open"]


@dataclass(frozen=True, slots=True)
class Bucket:
    """So many requests a second over time, and so many at once after a pause.

    Attributes:
        kind: `requests` is the tenant's own; the name of the policy in `RateLimit` fields.
        name: of the key or model; empty for the tenant's own.
    """

    tenant: str
    kind: Kind
    name: str
    rate: float
    burst: int
    on_store_loss: StoreLoss = "local"

    @property
    def policy(self) -> str:
        """`RateLimit-Policy`: how many in which window, seconds (draft-ietf-httpapi-ratelimit-headers-10)."""
        window = max(1, math.ceil(self.burst / self.rate)) if self.rate > 0 else 1
        return f'"{self.kind}";q={self.burst};w={window}'


def of_tenant(limits: TenantLimits) -> Bucket:
    return Bucket(limits.tenant, "requests", "", limits.requests_per_s, limits.burst, limits.on_store_loss)


def within(limits: TenantLimits, kind: Kind, name: str, rate: Rate) -> Bucket:
    """A bucket of one key or model of the tenant; without the store it does as the tenant's own."""
    return Bucket(limits.tenant, kind, name, rate.requests_per_s, rate.burst, limits.on_store_loss)
