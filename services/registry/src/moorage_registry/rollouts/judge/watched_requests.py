"""Errors and latency of one rollout: from batches to evidence."""

from collections import Counter
from typing import Any

from moorage_common.contracts.rollouts import RolloutPolicy
from moorage_common.contracts.signals import ArmCounts, SignalBatch
from moorage_registry.rollouts.judge import sentences
from moorage_registry.rollouts.judge.arith import threshold
from moorage_registry.rollouts.judge.blocks import Factor
from moorage_registry.rollouts.judge.errors import ErrorsSignal
from moorage_registry.rollouts.judge.evidence import Failure, SafetyEvidence, SignalEvidence, against
from moorage_registry.rollouts.judge.hosts import Hosts
from moorage_registry.rollouts.judge.keys import SeenKeys
from moorage_registry.rollouts.judge.latency import P95, QUANTILES, REFRESH, LatencySignal, Recent, Thresholds, beyond
from moorage_registry.rollouts.judge.safety import LatencySafety, RateSafety
from moorage_registry.rollouts.judge.share import Counts


class WatchedErrors:
    """The signal `errors`."""

    def __init__(self, policy: RolloutPolicy, hosts: Hosts) -> None:
        self._hosts = hosts
        self._keys = SeenKeys()
        self._signal = ErrorsSignal(policy.errors)
        self._safety = RateSafety(policy.errors.margin_pp / 100.0)
        self._safe_at = threshold(policy.beta / len(policy.steps))

    def read(self, batch: SignalBatch) -> Factor:
        """What a batch says; keys that were bad before no longer are."""
        (n_c, x_c), (n_s, x_s) = self._counted(batch.candidate), self._counted(batch.stable)
        for host in batch.candidate.hosts:
            self._hosts.add(host.host, requests=host.requests, bad=host.bad)
        return {"errors": Counts(n_c, n_s, x_c, x_s)}

    def fold(self, factor: Factor) -> None:
        if (counts := factor.get("errors")) is not None:
            self._signal.fold(counts)
            self._safety.fold(counts)

    def begin(self) -> None:
        """A step begins."""
        self._safety.begin()

    def evidence(self) -> SignalEvidence:
        return against("errors", self._signal, per_host=self._hosts.told())

    def safety(self, per_candidate: float) -> SafetyEvidence:
        """Of this step, with so many requests of stable for one of the candidate."""
        needed = self._safety.needed(self._safe_at, per_candidate)
        return SafetyEvidence(
            name="errors", log_e=float(self._safety.log_e), threshold=self._safe_at, needed_requests=needed
        )

    def failure(self) -> Failure | None:
        if not self._signal.crossed():
            return None
        one = self.evidence()
        return Failure(signal="errors", action="roll_back", sentence=sentences.errors(one), numbers=one.told())

    def _counted(self, arm: ArmCounts) -> tuple[int, int]:
        requests = sum(host.requests for host in arm.hosts)
        bad = self._keys.new(arm.bad_keys) if arm.bad_keys else sum(host.bad for host in arm.hosts)
        return requests, bad


class WatchedLatency:
    """The signal `latency`. Learns stable's quantiles, and judges by those from before a step began; as it goes on, by
    those from before each `REFRESH` further requests of stable, so that a minute that was slow for everybody does not
    hold the rollout up for good. Whatever they are, they are settled before what they judge, so the bound holds."""

    def __init__(self, policy: RolloutPolicy, hosts: Hosts) -> None:
        self._policy = policy.latency
        self._hosts = hosts
        self._signal = LatencySignal(policy.latency)
        self._safety = LatencySafety()
        self._safe_at = threshold(policy.beta / len(policy.steps))
        self._recent = Recent()
        self._thresholds: Thresholds | None = None
        self._judged = 0
        """Requests of stable since the thresholds were taken."""

    def read(self, batch: SignalBatch, *, learning: bool) -> Factor:
        """What a batch says by the thresholds from before it; then it is learnt from."""
        stable = _pooled(batch.stable)
        if not learning and (self._thresholds is None or self._judged >= REFRESH):
            self._freeze()
        factor = {} if self._thresholds is None else self._factor(batch, stable, self._thresholds)
        self._recent.add(stable)
        self._judged += stable.total()
        return factor

    def fold(self, factor: Factor) -> None:
        if (counts := factor.get("latency")) is not None:
            self._signal.fold(counts)
            self._safety.fold(factor["p95"])

    def begin(self) -> None:
        """A step begins: freeze the thresholds."""
        self._freeze()
        self._safety.begin()

    def evidence(self) -> SignalEvidence:
        if self._thresholds is None:
            return SignalEvidence(
                name="latency", state="learning", threshold=self._signal.threshold,
                detail={"learnt_from": self._recent.requests},
            )  # fmt: skip
        detail = {"quantiles": self._by_quantile(self._thresholds), "learnt_from": self._recent.requests}
        return against("latency", self._signal, P95, per_host=self._hosts.told(), detail=detail)

    def safety(self, per_candidate: float) -> SafetyEvidence:
        """Of this step, with so many requests of stable for one of the candidate."""
        needed = None
        if self._thresholds is not None:
            needed = self._safety.needed(self._safe_at, per_candidate, self._thresholds.beyond_margin)
        return SafetyEvidence(
            name="latency", log_e=float(self._safety.log_e), threshold=self._safe_at, needed_requests=needed
        )

    def failure(self) -> Failure | None:
        if not self._signal.crossed():
            return None
        one = self.evidence()
        return Failure(signal="latency", action="roll_back", sentence=sentences.latency(one), numbers=one.told())

    def _freeze(self) -> None:
        self._thresholds = self._recent.thresholds(self._policy) or self._thresholds
        self._judged = 0

    def _factor(self, batch: SignalBatch, stable: Counter[int], edges: Thresholds) -> Factor:
        for host in batch.candidate.hosts:
            slow = sum(count for bucket, count in host.slow.items() if bucket >= edges.candidate[P95])
            self._hosts.add(host.host, timed=sum(host.slow.values()), slow=slow)
        candidate = _pooled(batch.candidate)
        n_c, n_s = candidate.total(), stable.total()
        x_s = beyond(stable, edges.stable)
        late = sum(count for bucket, count in candidate.items() if bucket >= edges.margin)
        return {
            "latency": Counts(n_c, n_s, beyond(candidate, edges.candidate), x_s),
            "p95": Counts(n_c, n_s, late, x_s[P95]),
        }

    def _by_quantile(self, edges: Thresholds) -> list[dict[str, Any]]:
        seen, logs = self._signal.totals, self._signal.log_e_by_quantile
        return [
            {
                "quantile": quantile,
                "stable_us": edges.us[position],
                "candidate_us": edges.candidate_us[position],
                "candidate_slow": int(seen.x_c[position]),
                "stable_slow": int(seen.x_s[position]),
                "log_e": float(logs[position]),
            }
            for position, quantile in enumerate(QUANTILES)
        ]


def _pooled(arm: ArmCounts) -> Counter[int]:
    pooled: Counter[int] = Counter()
    for host in arm.hosts:
        pooled.update(host.slow)
    return pooled
