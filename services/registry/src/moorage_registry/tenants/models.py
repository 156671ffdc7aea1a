"""What is said about tenants over HTTP."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from moorage_common.contracts.keys import GpuShare, ModelRate, TenantLimits
from moorage_common.contracts.names import Name
from moorage_registry.instants import Instant


class GpuShareSpec(GpuShare):
    """A share as operators write it: a misspelt field is refused rather than ignored."""

    model_config = ConfigDict(extra="forbid")


class ModelRateSpec(ModelRate):
    """A model's rate as operators write it."""

    model_config = ConfigDict(extra="forbid")

    model: Name


class PlanDefaults(BaseModel):
    """What tenants of a plan get where an operator gives nothing else."""

    model_config = ConfigDict(extra="forbid")

    weight: float | None = Field(default=None, gt=0, le=1000)
    requests_per_s: float | None = Field(default=None, gt=0, le=1e9)
    burst: int | None = Field(default=None, ge=1, le=10**9)
    max_concurrent: int | None = Field(default=None, ge=1, le=10**6)
    max_body_bytes: int | None = Field(default=None, ge=1024, le=2**40)
    requests_per_month: int | None = Field(default=None, ge=0, le=10**15, description="null: no bound.")
    gpu_milli: int | None = Field(default=None, ge=0, le=10**9)
    cpu_milli: int | None = Field(default=None, ge=0, le=10**9)
    mem_mib: int | None = Field(default=None, ge=0, le=10**9)
    on_store_loss: Literal["local", "closed", "open"] | None = None


class LimitsChange(BaseModel):
    """Body of `PUT /v1/tenants/{tenant}/limits`: what is given is set, the rest stays.

    A plan brings what it sets of the fields that are not given. `requests_per_month` null takes the bound away.
    """

    model_config = ConfigDict(extra="forbid")

    status: Literal["active", "suspended"] | None = None
    plan: Name | None = None
    weight: float | None = Field(default=None, gt=0, le=1000)
    model_rates: list[ModelRateSpec] | None = Field(default=None, max_length=1000)
    requests_per_month: int | None = Field(default=None, ge=0, le=10**15)
    requests_per_s: float | None = Field(default=None, gt=0, le=1e9)
    burst: int | None = Field(default=None, ge=1, le=10**9)
    max_concurrent: int | None = Field(default=None, ge=1, le=10**6)
    max_body_bytes: int | None = Field(default=None, ge=1024, le=2**40)
    gpu_milli: int | None = Field(default=None, ge=0, le=10**9)
    cpu_milli: int | None = Field(default=None, ge=0, le=10**9)
    mem_mib: int | None = Field(default=None, ge=0, le=10**9)
    gpu_shares: list[GpuShareSpec] | None = Field(default=None, max_length=32)
    allow_code: bool | None = None
    on_store_loss: Literal["local", "closed", "open"] | None = None

    def given(self) -> dict[str, Any]:
        """Fields and values; shares and models' rates whole, so that equal ones compare equal."""
        fields = self.model_dump(exclude_none=True)
        if self.model_rates is not None:
            fields["model_rates"] = [rate.model_dump() for rate in self.model_rates]
        if self.gpu_shares is not None:
            fields["gpu_shares"] = [share.model_dump() for share in self.gpu_shares]
        if "requests_per_month" in self.model_fields_set:
            fields["requests_per_month"] = self.requests_per_month
        return fields


class NewTenant(BaseModel):
    """Body of `POST /v1/tenants`."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    limits: LimitsChange = LimitsChange()


class Deletion(BaseModel):
    """How far a tenant's deletion is."""

    asked_at: Instant
    asked_by: str
    remaining: dict[str, int] = Field(description="What is still to go, by kind; empty: nothing is.")
    waits_for: str = Field(description="Why it does not go on; empty while it does.")


class Tenant(BaseModel):
    name: str
    status: Literal["active", "suspended", "deleting", "deleted"]
    limits: TenantLimits
    created_at: Instant
    deletion: Deletion | None = Field(default=None, description="Of a tenant that is being deleted, or was.")


class TenantList(BaseModel):
    tenants: list[Tenant]
