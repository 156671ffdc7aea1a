"""What a label says of an answer, for every kind of both."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage_common.contracts.feedback import Feedback, Output
from moorage_common.contracts.request_id import new_ulid, ulid_time_s
from moorage_common.contracts.rollouts import FeedbackPolicy
from moorage_registry.feedback.service import by_version, delay_of
from moorage_registry.feedback.settling import Settled, label_text, settle, told
from moorage_registry.feedback.tables import LabelRow

USUAL = FeedbackPolicy()


def a_class(value: str) -> Output:
    return Output(kind="class", value=value)


def number(value: float) -> Output:
    return Output(kind="number", value=repr(value))


@pytest.mark.parametrize(
    ("label", "output", "wrong"),
    [
        ("fraud", "fraud", False), ("fraud", "Fraud", True), ("fraud", "", True), ("", "", False),
        (3.0, "3", False), ("3", "3", False), ("3.0", "3", False), (3.5, "3", True), ("03", "3", True),
        (-1.0, "-1", False), (True, "true", False), (True, "1", False), (1.0, "true", False), (False, "0", False),
        ("True", "true", False), (False, "true", True), (2.0**60, str(2**60), False), ("1.", "1", False),
        ("ja, größte", "ja, größte", False), ("v1.0", "v1", True),
    ],
)  # fmt: skip
def test_a_class_is_right_when_the_label_is_the_same_class_however_it_is_written(
    label: str | float | bool, output: str, wrong: bool
) -> None:
    assert settle(USUAL, label_text(label), a_class(output)) == Settled(wrong)


def test_of_numbers_there_is_the_absolute_error_and_right_or_wrong_only_within_a_tolerance() -> None:
    assert settle(USUAL, "2", number(2.5)) == Settled(None, 0.5)
    assert settle(USUAL, "2", number(2.0)) == Settled(None, 0.0)
    near = FeedbackPolicy(tolerance=0.5)
    assert settle(near, "2", number(2.5)) == Settled(False, 0.5)
    assert settle(near, "1", number(0.25)) == Settled(True, 0.75)
    assert settle(near, "true", number(0.75)) == Settled(False, 0.25)
    for nonsense in ("many", "nan", "inf", "1e999", ""):
        assert settle(USUAL, nonsense, number(2.5)) == Settled(True)


def test_a_policy_says_whether_answers_are_classes_or_numbers() -> None:
    assert settle(FeedbackPolicy(kind="class"), "1", number(1.0)) == Settled(False)
    assert settle(FeedbackPolicy(kind="class"), "2", number(1.0)) == Settled(True)
    assert settle(FeedbackPolicy(kind="number"), "5", a_class("3")) == Settled(None, 2.0)
    assert settle(FeedbackPolicy(kind="number"), "5", a_class("three")) == Settled(True)


def test_one_label_judges_both_versions_answers() -> None:
    assert settle(USUAL, "a", a_class("a"), a_class("b")) == Settled(False, None, True)
    assert settle(USUAL, "1", number(1.5), number(3.0)) == Settled(None, 0.5, None, 2.0)


def test_what_a_caller_found_itself_needs_no_answer_and_a_label_counts_before_it() -> None:
    def said(**fields: object) -> Settled | None:
        place = {"tenant": "t", "model": "m", "version": 1, "ulid": new_ulid(), "at": 1.0}
        return told(Feedback.model_validate({**place, **fields}))

    assert said(correct=True) == Settled(False)
    assert said(correct=False, loss=2.0) == Settled(True)
    assert said(loss=2.0) == Settled(None, 2.0)
    assert said(label="a", correct=True, loss=1.0) is None


@given(
    st.one_of(st.text(max_size=20), st.floats(allow_nan=False, allow_infinity=False), st.booleans()),
    st.one_of(
        st.text(max_size=20).map(a_class), st.floats(allow_nan=False, allow_infinity=False).map(number),
        st.booleans().map(lambda value: a_class(str(value).lower())),
    ),
    st.sampled_from(["auto", "class", "number"]), st.floats(0, 10),
)  # fmt: skip
def test_any_label_settles_any_answer_with_a_finite_loss_or_right_or_wrong(
    label: str | float | bool, output: Output, kind: str, tolerance: float
) -> None:
    policy = FeedbackPolicy.model_validate({"kind": kind, "tolerance": tolerance})
    settled = settle(policy, label_text(label), output, output)
    assert (settled.wrong, settled.loss) != (None, None)
    assert settled.loss is None or (math.isfinite(settled.loss) and settled.loss >= 0)
    assert (settled.other_wrong, settled.other_loss) == (settled.wrong, settled.loss)


def test_a_labels_text_is_its_own_label_again() -> None:
    for label in ("a", 3.0, -0.5, True, False, 1e20, 2.0**53):
        assert label_text(label_text(label)) == label_text(label)
        assert settle(USUAL, label_text(label), a_class(label_text(label))).wrong is False


def test_the_time_of_an_id_is_when_it_was_made() -> None:
    for ms in (0, 1, 1_700_000_000_123, 2**48 - 1):
        assert ulid_time_s(new_ulid(ms)) == ms / 1000
    for text in ("", "0" * 25, "u" * 26, "0" * 27):
        with pytest.raises(ValueError, match=r".+"):
            ulid_time_s(text)


def row(version: int, at: float = 10.0, **fields: object) -> LabelRow:
    usual = {"wrong": None, "loss": None, "other_version": None, "other_wrong": None, "other_loss": None}
    return LabelRow(version=version, answered_at=0.0, at=at, **{**usual, **fields})


def test_sums_are_by_version_and_a_copys_answer_counts_for_the_version_that_gave_it() -> None:
    rows = [
        row(1, wrong=False), row(1, wrong=True), row(1, loss=2.0),
        row(2, wrong=False, other_version=1, other_wrong=True), row(2, wrong=True, other_version=1),
    ]  # fmt: skip
    first, second = by_version(rows)
    assert (first.version, first.labels, first.wrong, first.pairs) == (1, 4, 2, 1)
    assert first.accuracy == pytest.approx(1 / 3)
    assert first.mean_loss == 2.0
    assert (second.version, second.labels, second.wrong, second.accuracy, second.pairs) == (2, 2, 1, 0.5, 0)
    assert second.mean_loss is None
    assert by_version([]) == []


def test_delays_are_told_by_their_nearest_rank() -> None:
    assert delay_of([]) is None
    delay = delay_of([row(1, at=float(at)) for at in range(1, 101)])
    assert delay is not None
    assert (delay.p50, delay.p90) == (50.0, 90.0)
    only = delay_of([row(1, at=-5.0)])
    assert only is not None
    assert (only.p50, only.p90) == (0.0, 0.0), "clocks of routers differ"
