"""What a router needs to answer for one model: value of `routes/<tenant>.<model>`."""

from typing import Literal

from pydantic import Field

from moorage_common.contracts.model import Contract
from moorage_common.contracts.tensors import Format, Signature

Role = Literal["stable", "candidate", "shadow"]

WHOLE_BP = 10_000
"""All of the traffic, in basis points."""


class Arm(Contract):
    """One share of the traffic. Weights of the arms that are not shadows add up to `WHOLE_BP`.

    The weight of a shadow is the share of the requests of which it gets a copy. `copies_to_code` accepts that a shadow
    whose format is code acts on copies as on the requests themselves.
    """

    arm: str
    version: int
    weight_bp: int = Field(ge=0, le=WHOLE_BP)
    role: Role = "stable"
    copies_to_code: bool = False


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


class Sticky(Contract):
    """The same key always goes to the same arm: to the candidate, or to either of two, as long as its share does not
    shrink.

    `by` header: of the request; entity: the first row of an input. `salt` makes one rollout's shares independent of
    another's.
    """

    by: Literal["header", "entity"]
    name: str = Field(min_length=1, max_length=256)
    salt: str = ""


class RouteRing(Contract):
    """Callers that a version is given to before others: by a header's values, or by their keys' ids.

    `weight_bp` of their requests go to `version`, the others to where everybody's go.
    """

    name: str
    header: str = ""
    values: list[str] = []
    kids: list[str] = []
    version: int
    weight_bp: int = Field(ge=0, le=WHOLE_BP)


class RouteRollout(Contract):
    """The rollout that owns the weights: which versions routers count, compare and mirror."""

    id: str
    stable: int
    candidate: int
    paired_bp: int = Field(default=0, ge=0, le=WHOLE_BP, description="Candidate's requests that stable gets a copy of.")
    skip_first: int = Field(default=50, ge=0, description="Requests of a new replica whose latency does not count.")


class RouteFeedback(Contract):
    """Compact outputs are kept of `keep_bp` of the requests: of `output`, or of the first output if empty."""

    output: str = ""
    keep_bp: int = Field(default=WHOLE_BP, ge=0, le=WHOLE_BP)


class Route(Contract):
    tenant: str
    model: str
    revision: int
    arms: list[Arm]
    versions: list[RouteVersion]
    deadline_ms: int = 30_000
    features: FeatureJoin | None = None
    sticky: Sticky | None = None
    rings: list[RouteRing] = []
    rollout: RouteRollout | None = None
    feedback: RouteFeedback | None = None
    cluster: str = Field(default="", description="Whose scheduler is asked to start a version that has no replica.")

    def version(self, number: int) -> RouteVersion | None:
        return next((v for v in self.versions if v.version == number), None)
