"""Drift and quality of one rollout: from predictions and labels to evidence."""

import math
from typing import Any

from moorage_common.contracts.rollouts import RolloutPolicy
from moorage_common.contracts.signals import SignalBatch
from moorage_registry.rollouts.entries import Label
from moorage_registry.rollouts.judge import sentences
from moorage_registry.rollouts.judge.arith import threshold
from moorage_registry.rollouts.judge.bins import Bins, Recent
from moorage_registry.rollouts.judge.blocks import Factor
from moorage_registry.rollouts.judge.drift import DriftSignal, collapse
from moorage_registry.rollouts.judge.evidence import Failure, SafetyEvidence, SignalEvidence, against
from moorage_registry.rollouts.judge.quality import Losses, QualitySignal, is_wrong, of_pair
from moorage_registry.rollouts.judge.safety import RateSafety
from moorage_registry.rollouts.judge.share import Counts

CANDIDATES_LAST = 300
"""Predictions of the candidate in which a collapse is looked for."""
LABELS = 32
"""So many labels are one factor: by count, never by which version they are of."""


class WatchedDrift:
    """The signal `drift`. Its bins are frozen once: both versions are sorted into them at the same time."""

    def __init__(self, policy: RolloutPolicy) -> None:
        self._policy = policy.drift
        self._stable = Recent()
        self._candidate = Recent(CANDIDATES_LAST)
        self._bins: Bins | None = None
        self._signal: DriftSignal | None = None

    def read(self, batch: SignalBatch, *, learning: bool) -> Factor:
        """What a batch says by the bins from before it; then it is learnt from."""
        if not learning:
            self._freeze()
        factor = {} if self._bins is None else self._factor(batch, self._bins)
        self._stable.add(batch.stable.predictions)
        self._candidate.add(batch.candidate.predictions)
        return factor

    def fold(self, factor: Factor) -> None:
        if (counts := factor.get("drift")) is not None and self._signal is not None:
            self._signal.fold(counts)

    def begin(self) -> None:
        """A step begins."""
        self._freeze()

    def evidence(self) -> SignalEvidence:
        signal, bins = self._signal, self._bins
        least = threshold(self._policy.alpha)
        if signal is None or bins is None:
            detail = {"learnt_from": self._stable.count}
            return SignalEvidence(name="drift", state="learning", threshold=least, detail=detail)
        most = int(signal.log_e_by_bin.argmax())
        return against("drift", signal, most, detail={"bin": bins.told(most), "bins": self._by_bin(bins, signal)})

    def failure(self) -> Failure | None:
        """Collapse rolls back, whatever the policy does about drift."""
        if self._signal is None or self._bins is None or not self._signal.crossed():
            return None
        one = self.evidence()
        collapsed = collapse(self._stable, self._candidate, self._bins)
        if collapsed is not None:
            sentence = sentences.collapsed(one, collapsed)
            numbers = {**one.told(), "collapsed": collapsed}
            return Failure(signal="drift", action="roll_back", sentence=sentence, numbers=numbers)
        return Failure(signal="drift", action=self._policy.action, sentence=sentences.drift(one), numbers=one.told())

    def _freeze(self) -> None:
        if self._bins is None and (bins := Bins.of(self._stable, self._policy)) is not None:
            self._bins, self._signal = bins, DriftSignal(self._policy, bins.count)

    def _factor(self, batch: SignalBatch, bins: Bins) -> Factor:
        n_c, x_c = bins.sort(batch.candidate.predictions)
        n_s, x_s = bins.sort(batch.stable.predictions)
        return {"drift": Counts(n_c, n_s, x_c, x_s)}

    def _by_bin(self, bins: Bins, signal: DriftSignal) -> list[dict[str, Any]]:
        seen = signal.totals
        return [
            {"bin": bins.told(position), "candidate": int(seen.x_c[position]), "stable": int(seen.x_s[position])}
            for position in range(bins.count)
        ]


class WatchedQuality:
    """The signal `quality`. Labels are compared `LABELS` at a time, in the order in which they settled."""

    def __init__(self, policy: RolloutPolicy, stable: int, candidate: int) -> None:
        self._policy = policy.quality
        self._stable, self._candidate = stable, candidate
        self._signal = QualitySignal(policy.quality)
        self._safety = RateSafety(policy.quality.margin_pp / 100.0)
        self._safe_at = threshold(policy.beta / len(policy.steps))
        self._losses = Losses()
        self._p75: float | None = None
        self._open = [0, 0, 0, 0]
        self._pairs = 0

    def add(self, label: Label, *, ring: bool) -> bool:
        """The next label. Returns whether it moved the evidence.

        Args:
            ring: whether the step shares out one ring's requests: labels are then of callers that differ by version,
                and judge by their pairs alone.
        """
        if label.version not in (self._candidate, self._stable):
            return False
        moved = False
        if (worse := of_pair(label)) is not None:
            self._pairs += 1
            faults = worse if label.version == self._candidate else -worse
            moved = bool(faults)
            self._signal.fold_pairs(int(faults > 0), int(faults < 0))
        wrong = is_wrong(label, self._p75)
        if label.loss is not None and math.isfinite(label.loss) and label.version == self._stable:
            self._losses.add(label.loss)
            self._p75 = self._losses.p75() if self._p75 is None else self._p75
        if wrong is None or ring:
            return moved
        return self._count(label, wrong) or moved

    def begin(self) -> None:
        """A step begins: the shares change, and so may the loss that counts as wrong."""
        self._close()
        p75 = self._losses.p75()
        self._p75 = self._p75 if p75 is None else p75
        self._safety.begin()

    def evidence(self) -> SignalEvidence:
        detail: dict[str, Any] = {} if self._p75 is None else {"wrong_from_loss": self._p75}
        if self._pairs:
            worse, better = int(self._signal.worse), int(self._signal.better)
            detail |= {"pairs": self._pairs, "candidate_alone_worse": worse, "stable_alone_worse": better}
        return against("quality", self._signal, detail=detail)

    def safety(self, per_candidate: float) -> SafetyEvidence:
        """Of this step, by labels: what is needed are labelled requests of the candidate."""
        needed = self._safety.needed(self._safe_at, per_candidate)
        return SafetyEvidence(
            name="quality", log_e=float(self._safety.log_e), threshold=self._safe_at, needed_requests=needed
        )

    def failure(self) -> Failure | None:
        if not self._signal.crossed():
            return None
        one = self.evidence()
        return Failure(signal="quality", action="roll_back", sentence=sentences.quality(one), numbers=one.told())

    def _count(self, label: Label, wrong: bool) -> bool:
        version = 0 if label.version == self._candidate else 1
        self._open[version] += 1
        self._open[version + 2] += wrong
        if self._open[0] + self._open[1] < LABELS:
            return False
        self._close()
        return True

    def _close(self) -> None:
        if any(self._open):
            counts, self._open = Counts(*self._open), [0, 0, 0, 0]
            self._signal.fold(counts)
            self._safety.fold(counts)
