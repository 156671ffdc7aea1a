"""Where a batch runs and how large it gets, decided from given measurements."""

import pytest

from moorage_runtime.pacing import BANISHED_S, INLINE_S, Pace, most_rows, place


def _pace(*measured: tuple[int, float], whole_s: float | None = None) -> Pace:
    pace = Pace()
    for rows, seconds in measured:
        pace.record(rows, inline_s=seconds, whole_s=whole_s or seconds)
    return pace


@pytest.mark.parametrize(
    ("measured", "rows", "spent_s", "why"),
    [
        ([], 1, 0.0, "unknown"),
        ([(1, 0.0003)], 1, 0.0, "fast"),
        ([(1, 0.0003)], 4, 0.0, "fast"),
        ([(1, 0.0003)], 64, 0.0, "slow"),
        ([(1, 0.0003), (64, 0.0004)], 64, 0.0, "fast"),
        ([(64, 0.0004)], 1, 0.0, "fast"),
        ([(64, 0.0004)], 1000, 0.0, "slow"),
        ([(1, 0.003)], 1, 0.0, "slow"),
        ([(1, 0.0003)], 1, 0.0018, "turn_spent"),
    ],
)
def test_only_what_is_measured_to_be_short_runs_in_the_event_loop(
    measured: list[tuple[int, float]], rows: int, spent_s: float, why: str
) -> None:
    found = place(_pace(*measured), rows, now=0.0, spent_s=spent_s)
    assert found.why == why
    assert found.inline == (why == "fast")


def test_a_surprise_sends_a_version_to_its_thread_for_a_good_while() -> None:
    pace = _pace((1, 0.0003))
    pace.surprised(100.0)
    assert place(pace, 1, now=100.0 + BANISHED_S - 0.1, spent_s=0.0).why == "banished"
    assert place(pace, 1, now=100.0 + BANISHED_S, spent_s=0.0).inline


def test_a_model_that_waits_for_a_device_never_runs_in_the_event_loop() -> None:
    assert place(_pace((1, 0.0003)), 1, now=0.0, spent_s=0.0, within_s=0.0).why == "unfit"


def test_one_slow_predict_is_doubted_at_once_and_many_fast_ones_are_trusted_slowly() -> None:
    pace = _pace((1, 0.0003), (1, 0.005))
    assert place(pace, 1, now=0.0, spent_s=0.0).why == "slow"
    pace.record(1, inline_s=0.0003, whole_s=0.0003)
    assert place(pace, 1, now=0.0, spent_s=0.0).why == "slow"
    for _ in range(20):
        pace.record(1, inline_s=0.0003, whole_s=0.0003)
    assert place(pace, 1, now=0.0, spent_s=0.0).inline


def test_waiting_for_the_interpreter_in_a_thread_does_not_keep_a_fast_model_there() -> None:
    assert place(_pace((1, 0.0003), whole_s=0.2), 1, now=0.0, spent_s=0.0).inline


def test_a_batch_never_grows_so_that_the_oldest_request_would_miss_its_deadline() -> None:
    pace = _pace((1, 0.010), (2, 0.020), (4, 0.040), (8, 0.080), (16, 0.160), (64, 0.640))
    assert most_rows(pace, max_batch=64, slack_s=30.0) == 64
    assert most_rows(pace, max_batch=64, slack_s=0.1) == 8
    assert most_rows(pace, max_batch=64, slack_s=0.001) == 1
    assert most_rows(Pace(), max_batch=64, slack_s=0.001) == 64


def test_the_turn_of_the_event_loop_is_shared_by_all_versions() -> None:
    pace = _pace((1, 0.0015))
    assert place(pace, 1, now=0.0, spent_s=0.0).inline
    assert place(pace, 1, now=0.0, spent_s=INLINE_S - 0.0014).why == "turn_spent"
