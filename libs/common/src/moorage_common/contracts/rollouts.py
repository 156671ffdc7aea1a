"""What a rollout is told to do: the policy, as it is set by people and as the judge reads it."""

from typing import Literal

from pydantic import ConfigDict, Field, model_validator

from moorage_common.contracts.model import Contract

WHOLE_PCT = 100.0
RINGS_MAX = 8
"""Of one policy: routers get all of their members with the route."""

CHANCE_LEAST = 1e-12
"""Below it nothing is told apart from never."""

SignalName = Literal["errors", "latency", "quality", "drift"]

RolloutState = Literal["pending", "baking", "hold", "paused", "guarded", "done", "rolled_back", "aborted"]
"""`pending`: no traffic yet. `baking`: at a step. `hold`: at a step, waiting for what `reason` says. `guarded`: the
candidate is promoted and the stable one is kept. The last three are final."""

FINAL: frozenset[str] = frozenset({"done", "rolled_back", "aborted"})


class _Part(Contract):
    """Unlike messages, what people write must not have a field that nobody reads."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Step(_Part):
    """One step: so much of the traffic, for at least so long, until the evidence of safety is there.

    A `ring` step shares out the ring's requests alone; a `shadow` step mirrors requests and answers none.
    """

    weight: float = Field(default=0.0, ge=0, le=100, description="Per cent of the requests that the candidate answers.")
    ring: str | None = Field(
        default=None, max_length=64, description="Only of this ring's requests; everybody else stays."
    )
    shadow: float = Field(default=0.0, ge=0, le=100, description="Per cent of the requests mirrored to the candidate.")
    at_least_s: float = Field(
        default=60.0, ge=0, le=30 * 86_400, description="However clear the evidence of safety is by then."
    )
    at_most_s: float = Field(
        default=900.0, ge=1, le=30 * 86_400, description="Without evidence by then the rollout holds and says why."
    )

    @model_validator(mode="after")
    def _one_kind(self) -> "Step":
        if self.shadow and (self.weight or self.ring):
            message = "a step either mirrors (shadow) or answers (weight, ring), not both"
            raise ValueError(message)
        if not self.shadow and not self.weight:
            message = "a step needs a weight or a shadow above 0"
            raise ValueError(message)
        return self


class ErrorsPolicy(_Part):
    """Bad: 5xx, timeout, a lost answer, NaN. `margin` in percentage points is what would be too much to promote."""

    on: bool = Field(default=True, description="Whether this is judged.")
    alpha: float = Field(
        default=0.004, ge=CHANCE_LEAST, lt=0.5, description="Chance to be rolled back by this though no worse."
    )
    margin_pp: float = Field(
        default=2.0, gt=0, le=50, description="Percentage points more that would be too much to promote."
    )
    least_gap_pp: float = Field(default=0.2, ge=0, le=50, description="No rollback for a smaller difference of rates.")
    least_requests: int = Field(
        default=10, ge=1, le=10**9, description="Of the candidate, before errors may roll it back."
    )
    least_bad: int = Field(
        default=3, ge=1, le=10**9, description="Bad ones of the candidate, before they may roll it back."
    )


class LatencyPolicy(_Part):
    """Bad: beyond a quantile of the stable version, taken before each step and before every 500 further requests."""

    on: bool = Field(default=True, description="Whether this is judged.")
    alpha: float = Field(
        default=0.003, ge=CHANCE_LEAST, lt=0.5, description="Chance to be rolled back by this though no worse."
    )
    margin_pct: float = Field(default=20.0, gt=0, le=1000, description="Slower p95 that would be too much to promote.")
    least_gap_pct: float = Field(
        default=5.0, ge=0, le=1000, description="What is slower by less never counts as slower."
    )
    least_gap_ms: float = Field(
        default=2.0, ge=0, le=60_000,
        description="Nor by fewer milliseconds: a replica with few requests is so much colder.",
    )  # fmt: skip
    margin_ms: float = Field(
        default=4.0, ge=0, le=60_000, description="Where `margin_pct` is fewer milliseconds, so many are allowed."
    )
    skip_first: int = Field(default=50, ge=0, le=100_000, description="Requests of a new replica left out.")


class QualityPolicy(_Part):
    """Bad: a wrong answer, by the labels fed back; for regression a loss above the stable version's p75."""

    on: bool = Field(default=True, description="Whether this is judged.")
    alpha: float = Field(
        default=0.0025, ge=CHANCE_LEAST, lt=0.5, description="Chance to be rolled back by this though no worse."
    )
    paired_pct: float = Field(
        default=0.0, ge=0, le=100,
        description="Per cent of the candidate's requests also sent to stable, so that one label judges both.",
    )  # fmt: skip
    needed: bool = Field(default=False, description="Whether steps wait for evidence of quality too.")
    margin_pp: float = Field(
        default=3.0, gt=0, le=100, description="Percentage points more wrong that would be too much to promote."
    )


class DriftPolicy(_Part):
    """Predictions of another distribution than the stable version's hold the rollout; collapsed ones roll it back."""

    on: bool = Field(default=True, description="Whether this is judged.")
    alpha: float = Field(
        default=0.0005, ge=CHANCE_LEAST, lt=0.5, description="Chance to be rolled back by this though no worse."
    )
    tolerance: float = Field(default=1.25, ge=1, le=100, description="Ratio of a bin's shares that is no drift yet.")
    action: Literal["hold", "alert", "roll_back"] = Field(
        default="hold", description="What drift does; collapse rolls back whatever this says."
    )
    low: float | None = Field(default=None, description="Declared range of a regression's predictions: from here,")
    high: float | None = Field(default=None, description="to here.")


class GuardPolicy(_Part):
    """After promotion: how long the stable version stays, and what share it keeps so that both can be compared."""

    for_s: float = Field(default=1800.0, ge=0, le=30 * 86_400, description="Let the labels come back in it.")
    holdback: float = Field(
        default=5.0, ge=0, le=50, description="Per cent of the requests that stable still answers meanwhile."
    )


class RolloutPolicy(_Part):
    """Every number of a rollout. The default needs no configuration."""

    steps: list[Step] = Field(
        default=[Step(weight=5.0), Step(weight=25.0), Step(weight=50.0)], min_length=1, max_length=32,
        description="One after the other; then the candidate is promoted.",
    )  # fmt: skip
    errors: ErrorsPolicy = ErrorsPolicy()
    latency: LatencyPolicy = LatencyPolicy()
    quality: QualityPolicy = QualityPolicy()
    drift: DriftPolicy = DriftPolicy()
    guard: GuardPolicy = GuardPolicy()
    beta: float = Field(
        default=0.05, ge=CHANCE_LEAST, lt=0.5, description="Chance to promote what is worse by a whole margin."
    )
    on_no_evidence: Literal["hold", "promote"] = Field(
        default="hold", description="What a step does without evidence when its `at_most_s` has passed."
    )
    baseline_requests: int = Field(default=2000, ge=100, le=100_000, description="Of stable, before the first step.")
    baseline_at_most_s: float = Field(
        default=60.0, ge=0, le=86_400, description="Then the first step begins with what was seen of stable."
    )
    candidate_hosts: int = Field(default=2, ge=1, le=64, description="Started with so many, where there is room.")
    ready_within_s: float = Field(default=600.0, ge=1, le=86_400, description="Else the candidate is rolled back.")

    @model_validator(mode="after")
    def _growing(self) -> "RolloutPolicy":
        weights = [step.weight for step in self.steps if step.ring is None and not step.shadow]
        if weights != sorted(weights):
            message = f"the weights must not go down from step to step: {weights}"
            raise ValueError(message)
        if len({step.ring for step in self.steps if step.ring is not None}) > RINGS_MAX:
            message = f"the steps name more than {RINGS_MAX} rings"
            raise ValueError(message)
        return self

    @property
    def alpha(self) -> float:
        """The bound on a false rollback by this policy, all signals together."""
        signals = (self.errors, self.latency, self.quality)
        rolls_back = [one.alpha for one in signals if one.on]
        return sum(rolls_back) + (self.drift.alpha if self.drift.on else 0.0)


class FeedbackPolicy(_Part):
    """Of a deployment: that labels come back, and for how long what was answered is kept to compare them with."""

    output: str = Field(default="", max_length=256, description="The output that labels are about; the first if empty.")
    keep_for_s: float = Field(default=7 * 86_400.0, ge=60, le=90 * 86_400)
    keep_pct: float = Field(default=100.0, gt=0, le=100, description="Per cent of the answers that are kept.")
    tolerance: float = Field(default=0.0, ge=0, description="Of numbers: a label so near is a right answer.")
    kind: Literal["auto", "class", "number"] = "auto"
