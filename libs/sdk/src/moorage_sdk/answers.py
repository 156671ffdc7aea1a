"""The registry's answers, as values."""

from typing import Any, Literal

from pydantic import Field

from moorage_common.contracts.desired import ReplicaStatus
from moorage_common.contracts.model import Contract
from moorage_common.contracts.rollouts import FeedbackPolicy
from moorage_common.contracts.tensors import Format, Signature


class Version(Contract):
    """One immutable version of a model."""

    model: str
    version: int
    state: Literal["uploaded", "validating", "ready", "rejected"]
    unchecked: bool = False
    reason: str | None = None
    artifact_digest: str
    size_bytes: int = 0
    format: Format
    signature: Signature
    libraries: dict[str, str] = {}
    feature_service: str | None = None
    feature_fingerprint: str | None = None
    created_at: str | float | None = None
    validation: dict[str, Any] | None = None

    @property
    def max_abs_diff(self) -> float | None:
        """How far a host's answers were from the pusher's, at most; None where nothing was compared."""
        return (self.validation or {}).get("max_abs_diff")


class TrafficArm(Contract):
    """One version's share of the traffic, in basis points."""

    version: int
    weight_bp: int
    role: Literal["stable", "candidate", "shadow"] = "stable"
    copies_to_code: bool = False


class Stickiness(Contract):
    """What of a request keeps it at one version: a header, or the first row of an input (`entity`)."""

    by: Literal["header", "entity"]
    name: str


class RingShare(Contract):
    """So much of the requests of a ring's callers goes to a version; the rest goes where everybody's goes."""

    ring: str
    version: int
    weight_bp: int


class Traffic(Contract):
    """How requests without a version are shared out. The weight of a shadow is the share that it gets copies of."""

    revision: int
    owner: str = "manual"
    arms: list[TrafficArm]
    stickiness: Stickiness | None = None
    rings: list[RingShare] = []


class Shadow(Contract):
    """Copies that a version got since the routers started: by outcome, left out by reason, and compared.

    `model_ms` and `served_model_ms` are means in its model and in the one whose answer the caller got.
    """

    version: int
    weight_bp: int
    outcomes: dict[str, int] = {}
    shed: dict[str, int] = {}
    agreed: int = 0
    disagreed: int = 0
    not_compared: int = 0
    model_ms: float | None = None
    served_model_ms: float | None = None


class Ring(Contract):
    """A named group of callers: by values of a header, or by ids of keys. `used_by` are models."""

    name: str
    header: str = ""
    values: list[str] = []
    kids: list[str] = []
    used_by: list[str] = []


class DeploymentStatus(Contract):
    """What runs: replicas, and how many of each version are ready."""

    replicas: list[ReplicaStatus] = []
    ready: dict[int, int] = {}
    url: str = ""


class VersionLabels(Contract):
    """What the recent labels say of one version. `pairs`: answers to copies of another version's requests."""

    version: int
    labels: int
    wrong: int
    accuracy: float | None = None
    mean_loss: float | None = None
    pairs: int = 0


class LabelDelay(Contract):
    """Seconds from a request to its label."""

    p50: float
    p90: float


class FeedbackStatus(Contract):
    """Labels of a deployment: how many came, wait for their answer or have lost it, and what the last `recent` say."""

    model: str
    policy: FeedbackPolicy | None = None
    outputs: int
    labels: int
    settled: int
    waiting: int
    lost: int
    recent: int
    versions: list[VersionLabels] = []
    delay_s: LabelDelay | None = None


class Change(Contract):
    """One line of a dry run: what stands at `path` now (`before`) and what would (`after`)."""

    path: str
    before: Any = Field(default=None, alias="from")
    after: Any = Field(default=None, alias="to")
