"""What is said about rollouts over HTTP."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from moorage_common.contracts.rollouts import RolloutPolicy, RolloutState
from moorage_registry.instants import Instant

VerdictKind = Literal[
    "started", "advanced", "held", "resumed", "paused", "alerted", "promoted", "rolled_back", "aborted", "done"
]


class NewRollout(BaseModel):
    """Body of `POST /v1/deployments/{model}/rollouts`. Without a policy, the deployment's, else the default one."""

    model_config = ConfigDict(extra="forbid")

    to: int | Literal["latest"] = "latest"
    policy: RolloutPolicy | None = None


class Rollout(BaseModel):
    """A rollout.

    `step` is -1 before the first and `steps` in the guard; `weight` the per cent of everybody's requests that the
    candidate answers now. `evidence` is the judge's, as of entry `seq`; `needed` and `eta_s` are how many more requests
    of the candidate, and seconds, the step is expected to take.
    """

    id: str
    model: str
    stable: int
    candidate: int
    state: RolloutState
    reason: str
    step: int
    steps: int
    weight: float
    policy: RolloutPolicy
    policy_hash: str
    started_at: Instant
    started_by: str
    step_began_at: Instant
    finished_at: Instant | None
    seq: int
    evidence: dict[str, Any]
    eta_s: float | None
    needed: int | None


class RolloutList(BaseModel):
    """Newest first."""

    rollouts: list[Rollout]


class Verdict(BaseModel):
    """One decision: why, in a sentence with numbers, and the evidence it was made on, as of entry `seq`."""

    number: int
    seq: int
    at: Instant
    kind: VerdictKind
    sentence: str
    detail: dict[str, Any]
    hash: str
    previous: str


class Verdicts(BaseModel):
    """`intact`: the hashes show that none was changed, dropped or added."""

    verdicts: list[Verdict]
    intact: bool


class Explanation(BaseModel):
    """Why the rollout is where it is."""

    sentence: str
    verdicts: list[Verdict]
    evidence: dict[str, Any]


class LogEntry(BaseModel):
    seq: int
    at: Instant
    kind: str
    entry: dict[str, Any]


class LogPage(BaseModel):
    """What the rollout saw, in the order it was judged; `next_after` asks for the page after this one."""

    entries: list[LogEntry]
    next_after: int | None


class ReplayAsk(BaseModel):
    """Body of `POST .../replay`. Without a policy, the rollout's own."""

    model_config = ConfigDict(extra="forbid")

    policy: RolloutPolicy | None = None


class ReplayedFailure(BaseModel):
    """Where a signal first spoke against the candidate."""

    seq: int
    at: Instant
    signal: str
    action: str
    sentence: str


class Replayed(BaseModel):
    """`same`: the evidence now is the stored one to the last bit, at the end and at each verdict."""

    same: bool
    entries: int
    policy_hash: str
    evidence: dict[str, Any]
    stored: dict[str, Any]
    failures: list[ReplayedFailure] = Field(default=[])
