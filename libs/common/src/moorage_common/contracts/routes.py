"""What a router needs to answer for one model: value of `routes/<tenant>.<model>`."""

from typing import Literal

from pydantic import Field

from moorage_common.contracts.model import Contract
from moorage_common.contracts.tensors import Format, Signature

Role = Literal["stable", "candidate", "shadow"]


class Arm(Contract):
    """One share of the traffic. Weights of the arms that are not shadows add up to 10,000 basis points."""

    arm: str
    version: int
    weight_bp: int = Field(ge=0, le=10_000)
    role: Role = "stable"


class RouteVersion(Contract):
    """A version the deployment holds."""

    version: int
    format: Format
    signature: Signature
    feature_service: str | None = None
    features: list[str] = Field(default=[], description="`view__feature` names in the order pinned at push.")


class FeatureJoin(Contract):
    """How the router joins features: for each entity join key, the request input that carries it."""

    entities: dict[str, str]
    deadline_ms: int = 50
    on_miss: Literal["fail", "default"] = "fail"
    default: float = 0.0


class Route(Contract):
    tenant: str
    model: str
    revision: int
    arms: list[Arm]
    versions: list[RouteVersion]
    deadline_ms: int = 30_000
    features: FeatureJoin | None = None
    cluster: str = Field(default="", description="Whose scheduler is asked to start a version that has no replica.")

    def version(self, number: int) -> RouteVersion | None:
        return next((v for v in self.versions if v.version == number), None)
