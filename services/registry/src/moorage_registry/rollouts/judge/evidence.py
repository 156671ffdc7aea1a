"""What the judge says: frozen values, told as JSON to people, verdicts and whoever asks why."""

from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict

from moorage_common.contracts.rollouts import SignalName
from moorage_registry.rollouts.judge.arith import Bools, Floats
from moorage_registry.rollouts.judge.totals import Totals

Action = Literal["roll_back", "hold", "alert"]
SignalState = Literal["learning", "judging"]


class _Told(BaseModel):
    model_config = ConfigDict(frozen=True)

    def told(self) -> dict[str, Any]:
        """As JSON."""
        return self.model_dump(mode="json")


class HostEvidence(_Told):
    """One replica host of the candidate: its requests, the bad ones, and those beyond stable's p95."""

    host: str
    requests: int
    bad: int
    timed: int = 0
    slow: int = 0


class SignalEvidence(_Told):
    """A signal against the candidate. `log_e` is ln E; at `threshold`, ln(1/alpha), the candidate is worse.

    `learning`: what it compares with is not known yet. Counts are of the rollout so far: bad requests, slow ones
    (beyond stable's p95), wrong answers, or predictions in the bin that moved most. `crossed` also asks for the
    policy's least counts and least difference.
    """

    name: SignalName
    state: SignalState = "judging"
    log_e: float = 0.0
    threshold: float
    crossed: bool = False
    candidate_n: int = 0
    candidate_bad: int = 0
    stable_n: int = 0
    stable_bad: int = 0
    per_host: tuple[HostEvidence, ...] = ()
    detail: dict[str, Any] = {}

    @property
    def candidate_rate(self) -> float:
        return self.candidate_bad / self.candidate_n if self.candidate_n else 0.0

    @property
    def stable_rate(self) -> float:
        return self.stable_bad / self.stable_n if self.stable_n else 0.0

    def told(self) -> dict[str, Any]:
        return {**super().told(), "candidate_rate": self.candidate_rate, "stable_rate": self.stable_rate}


class Signal(Protocol):
    """What the four signals have in common."""

    totals: Totals
    threshold: float

    @property
    def log_e(self) -> Floats: ...

    def crossed(self) -> Bools: ...


def against(name: SignalName, signal: Signal, kind: int | None = None, **more: Any) -> SignalEvidence:
    """Evidence against the candidate. `kind`: of the quantile or bin whose bad events are told, where there are any."""
    seen = signal.totals
    x_c, x_s = (seen.x_c, seen.x_s) if kind is None else (seen.x_c[kind], seen.x_s[kind])
    return SignalEvidence(
        name=name,
        log_e=float(signal.log_e),
        threshold=signal.threshold,
        crossed=bool(signal.crossed()),
        candidate_n=int(seen.n_c),
        candidate_bad=int(x_c),
        stable_n=int(seen.n_s),
        stable_bad=int(x_s),
        **more,
    )


class SafetyEvidence(_Told):
    """Evidence within this step that the candidate is not worse by the policy's margin.

    `needed_requests` of the candidate are still to come, as things look; null: it does not look like ever passing, or
    there is nothing to reckon with yet.
    """

    name: SignalName
    log_e: float
    threshold: float
    needed_requests: int | None = None

    @property
    def passed(self) -> bool:
        return self.log_e >= self.threshold


class Evidence(_Told):
    """All that is known at one moment. Requests of the candidate and of stable are counted within the step."""

    signals: tuple[SignalEvidence, ...] = ()
    safety: tuple[SafetyEvidence, ...] = ()
    step: int = -1
    baseline_requests: int = 0
    candidate_requests: int = 0
    stable_requests: int = 0
    labels: int = 0

    def signal(self, name: SignalName) -> SignalEvidence | None:
        return next((one for one in self.signals if one.name == name), None)

    def told(self) -> dict[str, Any]:
        return {**super().told(), "signals": [one.told() for one in self.signals]}


class Failure(_Told):
    """A signal that has crossed, what the policy wants done, why in a sentence, and the numbers in it."""

    signal: SignalName
    action: Action
    sentence: str
    numbers: dict[str, Any] = {}
