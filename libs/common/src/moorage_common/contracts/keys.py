"""API keys and limits as routers and the feature-proxy hold them."""

from typing import Literal

from pydantic import Field

from moorage_common.contracts.model import Contract
from moorage_common.contracts.names import model_glob_matches
from moorage_common.contracts.versioned import Versioned

MODEL_SCOPES = frozenset({"infer", "feedback"})
PLAIN_SCOPES = frozenset(
    {
        "models:write", "deploy:write", "features:read", "features:write", "events:read", "logs:read",
        "metrics:read", "usage:read", "keys:admin", "platform:admin",
    }
)  # fmt: skip


class Rate(Contract):
    """So many requests a second over time, and so many at once after a pause."""

    requests_per_s: float = Field(gt=0, le=1e9)
    burst: int = Field(ge=1, le=10**9)


class ModelRate(Rate):
    """Of one model of the tenant, whoever calls it."""

    model: str


class KeyRecord(Contract):
    """Value of `keys/<kid>`. A revoked key stays as a record with `revoked` for 24 h and wins by its version.

    A person's session key has `subject`; its scopes are those of the person's role in the tenant, published anew when
    that changes.
    """

    kid: str
    tenant: str
    digest: str = Field(description="HMAC-SHA256(pepper, secret), hex.")
    pepper_version: int = 1
    scopes: list[str]
    not_before: float = 0.0
    expires_at: float | None = None
    revoked: bool = False
    subject: str = Field(default="", description="The person whose session key it is; empty for API keys.")
    cidrs: list[str] = Field(default=[], description="Networks that it may be used from; empty: anywhere.")
    rate: Rate | None = Field(default=None, description="Of this key, within the tenant's.")

    def allows(self, scope: str, model: str | None = None) -> bool:
        """Whether the key carries `scope` (`infer`, `models:write`, ...), for `model` where the scope takes one."""
        if model is None:
            return scope in self.scopes
        prefix = scope + ":"
        return any(s.startswith(prefix) and model_glob_matches(s[len(prefix) :], model) for s in self.scopes)


class GpuShare(Contract):
    """A tenant's place in the queue tree, for one GPU model ("" for all that have no entry of their own)."""

    gpu_model: str = ""
    guaranteed_milli: int = Field(default=0, ge=0, description="Its own whenever it asks, thousandths of a device.")
    borrow_milli: int | None = Field(default=None, ge=0, description="Most beyond the guarantee; None: no bound.")
    weight: float = Field(default=1.0, gt=0, le=1000, description="Share of what is free beyond all guarantees.")


class TenantLimits(Contract):
    """Value of `limits/<tenant>`."""

    tenant: str
    status: Literal["active", "suspended", "deleting", "deleted"] = "active"
    plan: str = "standard"
    weight: float = Field(default=1.0, gt=0, le=1000, description="Of its requests where tenants wait for one place.")
    requests_per_s: float = 1000.0
    burst: int = 2000
    max_concurrent: int = 256
    max_body_bytes: int = 16 * 1024 * 1024
    gpu_milli: int = Field(default=2000, description="GPU the tenant's replicas may hold, in thousandths of a device.")
    cpu_milli: int = Field(default=64_000, description="CPU that its deployments may grow to, thousandths of a core.")
    mem_mib: int = Field(default=262_144, description="Memory of nodes that its deployments may grow to, MiB.")
    gpu_shares: list[GpuShare] = Field(default=[], description="Guarantees and borrowing; empty: borrows alone.")
    allow_code: bool = Field(default=False, description="Whether the tenant may push formats that are code.")
    model_rates: list[ModelRate] = Field(default=[], description="Of single models, within the tenant's rate.")
    requests_per_month: int | None = Field(default=None, description="Calendar month, UTC; None: no bound.")
    on_store_loss: Literal["local", "closed", "open"] = "local"


class KeyTables(Contract):
    """Answer of `GET /v1/internal/keys`: the whole of the buckets `keys` and `limits`, by their keys."""

    keys: dict[str, Versioned]
    limits: dict[str, Versioned]
