"""What the registry says of rollouts, as values. A figure that it does not give is None, empty or 0."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator

from moorage_common.contracts.model import Contract
from moorage_common.contracts.rollouts import FINAL, RolloutPolicy, RolloutState
from moorage_sdk.hints import parts_of


def _seconds(value: Any) -> Any:
    return datetime.fromisoformat(value).timestamp() if isinstance(value, str) else value


Moment = Annotated[float, BeforeValidator(_seconds)]
"""Seconds since 1970; RFC 3339 on the wire."""


def _known(value: Any, model: type[BaseModel]) -> Any:
    """`value` without the fields that a newer registry has more."""
    if not isinstance(value, dict):
        return value
    found = {}
    for name, field in model.model_fields.items():
        if name not in value:
            continue
        inner = next(iter(parts_of(field.annotation)), None)
        one = value[name]
        if inner is not None:
            one = [_known(item, inner) for item in one] if isinstance(one, list) else _known(one, inner)
        found[name] = one
    return found


def _known_policy(value: Any) -> Any:
    return _known(value, RolloutPolicy)


class HostEvidence(Contract):
    """One replica host of the candidate: its requests, the bad ones, and of those timed the slow ones."""

    host: str
    requests: int = 0
    bad: int = 0
    timed: int = 0
    slow: int = 0


class SignalEvidence(Contract):
    """How strongly a signal speaks against the candidate: it acts once `log_e` reaches `threshold` (ln 1/alpha).

    `state` is `learning` until it is known what to compare with. Of `stable_n` requests (for quality labels, for drift
    predictions) of the stable version `stable_bad` were bad, and of `candidate_n` of the candidate `candidate_bad`.
    `crossed`: it has acted; for that the policy's least counts and differences are met too.
    """

    name: str
    state: str = "judging"
    log_e: float | None = 0.0
    threshold: float | None = None
    crossed: bool = False
    stable_n: int = 0
    stable_bad: int = 0
    candidate_n: int = 0
    candidate_bad: int = 0
    per_host: list[HostEvidence] = []
    detail: dict[str, Any] = {}

    @property
    def share(self) -> float:
        """How far the evidence has come, 0 to 1."""
        return _share(self.log_e, self.threshold)


class SafetyEvidence(Contract):
    """How strongly a signal speaks for the candidate's being no worse than the margin, in this step.

    `needed_requests` of the candidate are expected to be missing yet; None where nobody can tell.
    """

    name: str
    log_e: float | None = 0.0
    threshold: float | None = None
    needed_requests: int | None = None

    @property
    def share(self) -> float:
        return _share(self.log_e, self.threshold)


def _share(log_e: float | None, threshold: float | None) -> float:
    if log_e is None or not threshold or threshold <= 0:
        return 0.0
    return min(1.0, max(0.0, log_e / threshold))


class Evidence(Contract):
    """Against the candidate since the rollout began (`signals`), and for it in this step (`safety`).

    `baseline_requests` of the stable version were seen before any traffic, `labels` came back; requests of the
    candidate and of stable are those of this step.
    """

    signals: list[SignalEvidence] = []
    safety: list[SafetyEvidence] = []
    step: int = -1
    baseline_requests: int = 0
    candidate_requests: int = 0
    stable_requests: int = 0
    labels: int = 0


class Rollout(Contract):
    """A rollout of version `candidate` of a model in the place of `stable`.

    `step` counts from 0 to `steps - 1`; -1 is before any traffic, `steps` the guard. `weight` is the candidate's per
    cent of the requests. `eta_s` and `needed` requests of the candidate are what the step still takes, about.
    """

    id: str
    model: str
    stable: int
    candidate: int
    state: RolloutState
    reason: str = ""
    step: int = -1
    steps: int = 0
    weight: float = 0.0
    policy: Annotated[RolloutPolicy, BeforeValidator(_known_policy)] = RolloutPolicy()
    policy_hash: str = ""
    started_at: Moment
    started_by: str = ""
    step_began_at: Moment | None = None
    finished_at: Moment | None = None
    seq: int = 0
    evidence: Evidence = Evidence()
    eta_s: float | None = None
    needed: int | None = None

    @property
    def is_final(self) -> bool:
        return self.state in FINAL

    @property
    def is_promoted(self) -> bool:
        """Whether the candidate has the traffic; in the guard it may still be rolled back."""
        return self.state in ("guarded", "done")


class Verdict(Contract):
    """One decision: what happened at entry `seq` of the log, in a sentence with its numbers.

    `hash` covers the verdict and `previous`, the hash of the one before.
    """

    number: int
    seq: int = 0
    at: Moment
    kind: str
    sentence: str = ""
    detail: dict[str, Any] = {}
    hash: str = ""
    previous: str = ""


class Verdicts(Contract):
    """Oldest first. `intact`: the chain of hashes holds, so none was changed, taken out or put in since."""

    verdicts: list[Verdict] = []
    intact: bool = True


class Explained(Contract):
    """Why a rollout is where it is."""

    sentence: str
    verdicts: list[Verdict] = []
    evidence: Evidence = Evidence()


class Crossing(Contract):
    """Where a replay would have acted."""

    seq: int
    at: Moment
    signal: str
    action: str = ""
    sentence: str = ""


class Replayed(Contract):
    """A rollout judged again from its log, `entries` of it. `same`: all evidence came out as stored, to the bit.

    `failures` are where a signal first spoke against the candidate.
    """

    same: bool
    entries: int = 0
    policy_hash: str = ""
    evidence: Evidence = Evidence()
    stored: Evidence = Evidence()
    failures: list[Crossing] = []
