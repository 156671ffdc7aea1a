"""Settings of the registry."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator

from moorage_common.contracts.names import Name
from moorage_common.networks import Cidr
from moorage_common.settings import TRUSTED_PROXIES, ServiceSettings
from moorage_registry.tenants.models import PlanDefaults


class Settings(ServiceSettings):
    """Read once, in `__main__`, from `MOORAGE_*` variables."""

    database_url: SecretStr = Field(
        description="SQLAlchemy URL: sqlite+aiosqlite:///<path> (one registry) or postgresql+asyncpg://... (several)."
    )
    migrate: bool = Field(default=True, description="Bring the database to the current schema at start.")
    pepper: SecretStr = Field(min_length=16, description="Secret that key digests and signed URLs derive from.")
    artifact_dir: Path = Field(description="Directory that holds the artifacts, one folder a tenant.")
    max_artifact_bytes: int = Field(default=2 * 1024**3, gt=0, description="Largest artifact taken in, in bytes.")
    max_tenant_artifact_bytes: int = Field(
        default=20 * 1024**3, gt=0, description="Bytes that the artifacts of one tenant may have together."
    )
    public_url: str = Field(description="Base URL that replica hosts and people reach this registry by.")
    router_url: str = Field(default="", description="Base URL of the router, named in a deployment's status.")
    feature_proxy_url: str = Field(default="", description="Base URL of the feature-proxy; empty where there is none.")
    trusted_proxies: list[Cidr] = Field(default=[], description=TRUSTED_PROXIES)
    cluster: Name = Field(default="default", description="Cluster that deployments are placed in.")
    feedback_outputs: int = Field(
        default=1_000_000, ge=1, description="Answers kept a tenant to hold labels against; the oldest go first."
    )
    identity: Literal["keycloak", "oidc", "none"] = Field(
        default="none", description="How people sign in: with Keycloak, with another OpenID provider, or not at all."
    )
    identity_issuer: str = Field(
        default="", description="The provider's issuer, as its tokens name it: https://id.example.com/realms/moorage."
    )
    identity_audience: str = Field(
        default="moorage", description="Audience that tokens must have; the client itself where ID tokens are taken."
    )
    identity_client_id: str = Field(default="moorage-cli", description="The provider's client that people sign in by.")
    identity_jwks_url: str = Field(
        default="", description="Where the provider's keys are read; empty: as its discovery document says."
    )
    bootstrap_admin_key: SecretStr | None = Field(
        default=None, description="Text of a platform:admin key that must exist once the registry has started."
    )
    reservation_s: float = Field(
        default=60.0, ge=3.0, description="How long a router's reservation of requests a month outlives its last word."
    )
    plans: dict[Name, PlanDefaults] = Field(
        default={
            "free": PlanDefaults(weight=1),
            "standard": PlanDefaults(weight=4),
            "premium": PlanDefaults(weight=16),
        },
        description="Plans by name and the limits that each sets: weight, requests_per_s, burst, max_concurrent, "
        "max_body_bytes, requests_per_month, gpu_milli, cpu_milli, mem_mib, on_store_loss. A new tenant has standard "
        "unless another is given. A JSON object; it replaces all of them.",
    )

    @model_validator(mode="after")
    def _names_the_issuer(self) -> Self:
        if self.identity != "none" and not self.identity_issuer.startswith(("https://", "http://")):
            message = f"identity {self.identity} needs identity_issuer, the provider's address"
            raise ValueError(message)
        return self
