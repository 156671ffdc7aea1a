"""What is said about deployments and traffic over HTTP."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from moorage_common.contracts.desired import Isolation, ReplicaStatus, SchedulingClass
from moorage_common.contracts.names import Name
from moorage_common.contracts.rollouts import FeedbackPolicy, RolloutPolicy
from moorage_common.contracts.routes import WHOLE_BP, Arm, FeatureJoin, Role
from moorage_registry.deployments.resources import ResourcesSpec
from moorage_registry.instants import Instant

VERSIONS_MAX = 16
RINGS_MAX = 8


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Scaling(_Strict):
    """Replicas of a version: `min` to `max`, by requests in flight a replica; with `min` 0 none when idle so long."""

    min: int = Field(default=1, ge=0, le=1000)
    max: int = Field(default=1, ge=1, le=1000)
    target_in_flight: int = Field(default=8, ge=1, le=100_000)
    idle_s: int = Field(default=300, ge=10, le=30 * 86_400)

    @model_validator(mode="after")
    def _ordered(self) -> "Scaling":
        if self.min > self.max:
            message = f"min ({self.min}) is more than max ({self.max})"
            raise ValueError(message)
        return self


class VersionSpec(_Strict):
    version: int | Literal["latest"]
    resources: ResourcesSpec = ResourcesSpec()
    scaling: Scaling = Scaling()
    isolation: Isolation = "dedicated"
    scheduling_class: SchedulingClass = "standard"
    priority: int = Field(default=50, ge=0, le=100)
    pinned: bool = False
    capacity_share_bp: int = Field(default=WHOLE_BP, ge=0, le=WHOLE_BP)


class FeaturesSpec(_Strict):
    """For each entity join key, the request input that carries it."""

    entity: dict[str, str] = Field(min_length=1, max_length=16)
    deadline_ms: int = Field(default=50, ge=1, le=60_000)
    on_miss: Literal["fail", "default"] = "fail"
    default: float = Field(default=0.0, allow_inf_nan=False)

    def join(self) -> FeatureJoin:
        return FeatureJoin(
            entities=self.entity, deadline_ms=self.deadline_ms, on_miss=self.on_miss, default=self.default
        )


class _Share(_Strict):
    """A version's share, as `weight_bp` (basis points) or `weight` (percent)."""

    version: int | Literal["latest"]
    weight_bp: int | None = Field(default=None, ge=0, le=WHOLE_BP)
    weight: float | None = Field(default=None, ge=0, le=100)

    @model_validator(mode="after")
    def _one_weight(self) -> Self:
        if (self.weight_bp is None) == (self.weight is None):
            message = "give either weight_bp (basis points, 10000 is all) or weight (percent)"
            raise ValueError(message)
        return self

    @property
    def basis_points(self) -> int:
        if self.weight_bp is not None:
            return self.weight_bp
        return round((self.weight or 0.0) * 100)


class ArmSpec(_Share):
    """A version's share of the requests; of a shadow, the share of which it gets copies.

    A shadow whose format is code needs `copies_to_code`: it acts on copies as on the requests themselves.
    """

    role: Role = "stable"
    copies_to_code: bool = False


class RingArmSpec(_Share):
    """A version's share of the requests of a ring's callers; the others go where everybody's go."""

    ring: Name


class RingArm(BaseModel):
    ring: str
    version: int
    weight_bp: int


class Stickiness(_Strict):
    """Requests with one value of a header, or of the first row of an input (`entity`), are answered by one version."""

    by: Literal["header", "entity"]
    name: str = Field(min_length=1, max_length=256)


class StickinessSpec(Stickiness):
    reshuffle: bool = Field(default=False, description="Draw every key anew, though `by` and `name` stay.")


class DeploymentSpec(_Strict):
    """Body of `PUT /v1/deployments/{model}`. Without `traffic`, the traffic stays as it is.

    `stickiness` and `rings` stay too unless given; null and [] end them. `policy` is what rollouts of the deployment go
    by unless they name another; `feedback` has answers kept for labels.
    """

    versions: list[VersionSpec] = Field(min_length=1, max_length=VERSIONS_MAX)
    traffic: list[ArmSpec] | None = Field(default=None, min_length=1, max_length=VERSIONS_MAX)
    stickiness: StickinessSpec | None = None
    rings: list[RingArmSpec] | None = Field(default=None, max_length=RINGS_MAX)
    features: FeaturesSpec | None = None
    deadline_ms: int = Field(default=30_000, ge=1, le=600_000)
    policy: RolloutPolicy | None = None
    feedback: FeedbackPolicy | None = None


class PlacedVersion(VersionSpec):
    """A version of a revision: its number is settled."""

    version: int


class Revision(BaseModel):
    """What a deployment is at one revision, traffic apart."""

    versions: list[PlacedVersion]
    features: FeaturesSpec | None = None
    deadline_ms: int = 30_000
    policy: RolloutPolicy | None = None
    feedback: FeedbackPolicy | None = None

    def numbers(self) -> list[int]:
        return [v.version for v in self.versions]


class Traffic(BaseModel):
    """`owner` is `manual`, or `rollout:<id>` while a rollout moves the weights."""

    revision: int
    owner: str
    arms: list[Arm]
    stickiness: Stickiness | None
    rings: list[RingArm]


class Shadow(BaseModel):
    """Copies that a version got since the routers started.

    `outcomes`: ok, error (another status), late, lost, unsent; `shed`: copies not made, by reason. Of those that both
    answered with 200: whether the first row's class or number agrees, and mean milliseconds in either model.
    """

    version: int
    weight_bp: int
    outcomes: dict[str, int]
    shed: dict[str, int]
    agreed: int
    disagreed: int
    not_compared: int
    model_ms: float | None
    served_model_ms: float | None


class Shadows(BaseModel):
    shadows: list[Shadow]


class TrafficChange(_Strict):
    """Body of `PUT /v1/deployments/{model}/traffic`; with `revision`, only if that is still the current one.

    `stickiness` and `rings` stay as they are unless given; null and [] end them.
    """

    arms: list[ArmSpec] = Field(min_length=1, max_length=VERSIONS_MAX)
    stickiness: StickinessSpec | None = None
    rings: list[RingArmSpec] | None = Field(default=None, max_length=RINGS_MAX)
    revision: int | None = None


class Deployment(BaseModel):
    model: str
    revision: int
    versions: list[PlacedVersion]
    features: FeaturesSpec | None
    deadline_ms: int
    policy: RolloutPolicy | None
    feedback: FeedbackPolicy | None
    traffic: Traffic
    created_at: Instant
    updated_at: Instant


class DeploymentList(BaseModel):
    deployments: list[Deployment]


class Change(BaseModel):
    """One line of a dry run: what stands at `path` and what would."""

    path: str
    before: Any = Field(serialization_alias="from")
    after: Any = Field(serialization_alias="to")


class Changes(BaseModel):
    changes: list[Change]


class DeploymentStatus(BaseModel):
    """What runs, as the scheduler last reported: replicas, and how many of each version are ready."""

    replicas: list[ReplicaStatus]
    ready: dict[int, int]
    url: str


class Logs(BaseModel):
    lines: list[str]
