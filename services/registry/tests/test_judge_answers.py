"""Other predictions, and wrong ones."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from moorage_common.contracts.rollouts import DriftPolicy, QualityPolicy, RolloutPolicy
from moorage_common.contracts.signals import ArmCounts, HostCounts, Predictions, SignalBatch
from moorage_registry.rollouts.entries import BatchEntry, Label, LabelsEntry, StepEntry
from moorage_registry.rollouts.judge import Judge, SignalEvidence

STABLE, CANDIDATE = 1, 2
Predict = Callable[[np.random.Generator, int], Predictions]


def classes(*odds: float) -> Predict:
    def predict(random: np.random.Generator, count: int) -> Predictions:
        drawn = random.choice(len(odds), size=count, p=np.array(odds) / sum(odds))
        return Predictions(classes=dict(Counter(f"c{one}" for one in drawn)))

    return predict


def numbers(mean: float = 0.0, sigma: float = 1.0) -> Predict:
    return lambda random, count: Predictions(numbers=(mean + sigma * random.standard_normal(count)).tolist())


def batch(seq: int, candidate: Predictions, stable: Predictions) -> BatchEntry:
    def arm(version: int, requests: int, predictions: Predictions) -> ArmCounts:
        return ArmCounts(version=version, hosts=[HostCounts(host="h", requests=requests)], predictions=predictions)

    return BatchEntry(
        batch=SignalBatch(
            router="r1", boot="b1", seq=seq, tenant="acme", model="fraud", rollout="ro", revision=1, opened_at=0.0,
            closed_at=1.0, candidate=arm(CANDIDATE, 25, candidate), stable=arm(STABLE, 475, stable),
        )
    )  # fmt: skip


def drifting(stable: Predict, candidate: Predict, policy: DriftPolicy | None = None, looks: int = 60) -> Judge:
    random = np.random.default_rng(7)
    judge = Judge(RolloutPolicy(drift=policy or DriftPolicy()), STABLE, CANDIDATE)
    judge.fold(StepEntry(step=-1))
    for seq in range(5):
        judge.fold(batch(seq, Predictions(), stable(random, 100)))
    judge.fold(StepEntry(step=0, weight=5.0))
    for seq in range(5, 5 + looks):
        judge.fold(batch(seq, candidate(random, 25), stable(random, 100)))
    return judge


def signal(judge: Judge, name: str) -> SignalEvidence:
    one = judge.evidence().signal(name)  # type: ignore[arg-type]
    assert one is not None
    return one


@pytest.mark.parametrize("predict", [classes(0.6, 0.3, 0.1), classes(0.999, 0.001), numbers()])
def test_the_same_predictions_do_nothing(predict: Predict) -> None:
    judge = drifting(predict, predict)
    assert judge.failure() is None
    assert signal(judge, "drift").state == "judging"


@pytest.mark.parametrize("action", ["hold", "alert", "roll_back"])
def test_other_predictions_do_what_the_policy_says(action: str) -> None:
    policy = DriftPolicy(action=action)  # type: ignore[arg-type]
    failure = drifting(classes(0.6, 0.3, 0.1), classes(0.3, 0.3, 0.4), policy).failure()
    assert failure is not None
    assert (failure.signal, failure.action) == ("drift", action)
    assert "class c2" in failure.sentence


def test_numbers_that_have_moved_are_seen_in_stables_deciles() -> None:
    failure = drifting(numbers(), numbers(mean=1.0)).failure()
    assert failure is not None
    assert failure.action == "hold"
    assert len(failure.numbers["detail"]["bins"]) == 10


def test_what_holds_is_gone_when_the_predictions_are_the_same_again() -> None:
    judge = drifting(classes(0.5, 0.5), classes(0.85, 0.15), looks=20)
    assert judge.failure() is not None
    random = np.random.default_rng(8)
    for seq in range(100, 600):
        judge.fold(batch(seq, classes(0.5, 0.5)(random, 25), classes(0.5, 0.5)(random, 100)))
    assert judge.failure() is None


@pytest.mark.parametrize(
    ("stable", "candidate", "policy", "says"),
    [
        (classes(0.5, 0.3, 0.2), classes(0, 0, 1), DriftPolicy(action="alert"), "100 % of its predictions are c2"),
        (numbers(), numbers(mean=0.4, sigma=0.0), DriftPolicy(), "100 % of its predictions are 0.4"),
        (numbers(), numbers(mean=6.0), DriftPolicy(low=-5.0, high=5.0), "out of the range -5 to 5"),
    ],
)
def test_a_collapse_rolls_back_whatever_drift_does(
    stable: Predict, candidate: Predict, policy: DriftPolicy, says: str
) -> None:
    failure = drifting(stable, candidate, policy).failure()
    assert failure is not None
    assert failure.action == "roll_back"
    assert says in failure.sentence


def test_a_constant_stable_version_may_have_a_constant_candidate() -> None:
    assert drifting(classes(1), classes(1)).failure() is None
    assert drifting(numbers(sigma=0.0), numbers(sigma=0.0)).failure() is None


def labelled(labels: list[Label], policy: QualityPolicy | None = None, *, step: StepEntry | None = None) -> Judge:
    judge = Judge(RolloutPolicy(quality=policy or QualityPolicy()), STABLE, CANDIDATE)
    judge.fold(step or StepEntry(step=0, weight=20.0))
    for start in range(0, len(labels), 50):
        chunk = labels[start : start + 50]
        judge.fold(LabelsEntry(labels=chunk, settled_to=start + len(chunk)))
    return judge


def answers(count: int, wrong: tuple[float, float], seed: int = 1) -> list[Label]:
    """Labels of a fifth of candidate's and the rest of stable's answers, wrong by these odds."""
    random = np.random.default_rng(seed)
    ours = random.random(count) < 0.2
    bad = random.random(count) < np.where(ours, *wrong)
    pairs = zip(ours, bad, strict=True)
    return [Label(version=CANDIDATE if mine else STABLE, wrong=bool(is_bad)) for mine, is_bad in pairs]


def test_a_candidate_that_is_wrong_more_often_is_rolled_back_by_its_labels() -> None:
    failure = labelled(answers(8000, (0.10, 0.05))).failure()
    assert failure is not None
    assert (failure.signal, failure.action) == ("quality", "roll_back")
    assert "labelled answers were wrong" in failure.sentence


def test_labels_that_are_as_often_wrong_do_nothing() -> None:
    assert labelled(answers(20_000, (0.05, 0.05))).failure() is None


def test_one_label_judges_both_answers_to_a_mirrored_request() -> None:
    random = np.random.default_rng(2)
    draws = random.random(600)
    labels = [Label(version=CANDIDATE, wrong=bool(u < 0.1), other_wrong=bool(0.08 < u < 0.18)) for u in draws]
    judge = labelled(labels, QualityPolicy(paired_pct=100))
    assert judge.failure() is None
    worse = [Label(version=CANDIDATE, wrong=bool(u < 0.1), other_wrong=bool(u < 0.02)) for u in draws]
    failure = labelled(worse, QualityPolicy(paired_pct=100)).failure()
    assert failure is not None
    assert "requests that both versions answered" in failure.sentence
    swapped = [Label(version=STABLE, wrong=one.other_wrong, other_wrong=one.wrong) for one in worse]
    assert labelled(swapped, QualityPolicy(paired_pct=100)).failure() is not None


def test_of_numbers_a_loss_beyond_stables_p75_is_wrong() -> None:
    random = np.random.default_rng(3)
    labels = [Label(version=STABLE, loss=float(loss)) for loss in random.exponential(1.0, 400)]
    for _ in range(6000):
        version = CANDIDATE if random.random() < 0.2 else STABLE
        loss = random.exponential(1.5 if version == CANDIDATE else 1.0)
        labels.append(Label(version=version, loss=float(loss)))
    failure = labelled(labels).failure()
    assert failure is not None
    assert "labelled answers had a loss above 1." in failure.sentence
    pairs = [Label(version=CANDIDATE, loss=2.0 + n % 3, other_loss=1.0 + n % 7) for n in range(600)]
    assert labelled(pairs, QualityPolicy(paired_pct=50)).evidence().signals[2].detail["pairs"] == 600


def test_labels_of_a_rings_step_judge_by_pairs_alone() -> None:
    ring = StepEntry(step=0, weight=100.0, stratum_ring="beta")
    assert labelled(answers(8000, (0.2, 0.05))).failure() is not None
    assert labelled(answers(8000, (0.2, 0.05)), step=ring).failure() is None
    pairs = [Label(version=CANDIDATE, wrong=n % 5 > 0, other_wrong=n % 5 == 0) for n in range(600)]
    assert labelled(pairs, QualityPolicy(paired_pct=50), step=ring).failure() is not None


def test_labels_without_a_verdict_or_of_another_version_say_nothing() -> None:
    judge = labelled([Label(version=3, wrong=True), Label(version=CANDIDATE), Label(version=STABLE, loss=float("nan"))])
    assert signal(judge, "quality").log_e == 0.0
    assert judge.evidence().labels == 3
