"""What is sent again, and when: the decision alone."""

import pytest

from moorage_sdk.retry import Failure, GiveUp, Lost, Refused, Repeat, RetryPolicy, Unsent, Wait, decide

POLICY = RetryPolicy(retries=2, first_wait_s=0.1, longest_wait_s=10.0)
BROKEN = ConnectionError()


def decided(failure: Failure, repeat: Repeat = Repeat.ACTS, *, sent: int = 1, left_s: float = 60.0) -> Wait | GiveUp:
    return decide(POLICY, failure, repeat, sent=sent, left_s=left_s, draw=0.5)


@pytest.mark.parametrize("repeat", Repeat)
def test_what_was_never_sent_is_sent_again_whatever_it_does(repeat: Repeat) -> None:
    assert decided(Unsent(BROKEN), repeat) == Wait(0.1)
    assert decided(Unsent(BROKEN), repeat, sent=2) == Wait(0.2)


@pytest.mark.parametrize("repeat", Repeat)
@pytest.mark.parametrize("status", [429, 503])
def test_a_refusal_that_says_when_is_kept_to(status: int, repeat: Repeat) -> None:
    assert decided(Refused(status, 2.0), repeat) == Wait(2.1)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_refusal_that_says_nothing_is_repeated_for_reading_alone(status: int) -> None:
    assert decided(Refused(status), Repeat.READS) == Wait(0.1)
    assert decided(Refused(status), Repeat.COMPUTES) == GiveUp()
    assert decided(Refused(status), Repeat.ACTS) == GiveUp()


@pytest.mark.parametrize("repeat", [Repeat.COMPUTES, Repeat.ACTS])
@pytest.mark.parametrize("status", [502, 504])
def test_a_failure_behind_the_router_is_the_routers_to_retry(status: int, repeat: Repeat) -> None:
    assert decided(Refused(status, 1.0), repeat) == GiveUp()


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 409, 413, 422, 500, 501])
def test_an_answer_that_will_not_change_is_final(status: int) -> None:
    assert decided(Refused(status, 1.0), Repeat.READS) == GiveUp()


@pytest.mark.parametrize("repeat", Repeat)
def test_a_call_without_answer_in_time_is_never_repeated(repeat: Repeat) -> None:
    assert decided(Lost(BROKEN, in_time=False), repeat) == GiveUp()
    assert decided(Lost(BROKEN, in_time=False, kept=True), repeat) == GiveUp()


def test_a_kept_connection_that_closed_is_replaced_once_where_repeating_only_computes() -> None:
    closed = Lost(BROKEN, kept=True)
    assert decided(closed, Repeat.COMPUTES) == Wait(0.0)
    assert decided(closed, Repeat.COMPUTES, sent=2) == GiveUp()
    assert decided(closed, Repeat.ACTS) == GiveUp()
    assert decided(Lost(BROKEN), Repeat.COMPUTES) == GiveUp()
    assert decided(Lost(BROKEN), Repeat.READS) == Wait(0.1)


def test_no_wait_is_begun_that_would_not_end_in_time_or_is_too_long() -> None:
    assert decided(Refused(503, 2.0), left_s=2.05) == GiveUp()
    assert decided(Refused(429, 60.0)) == GiveUp()


def test_the_number_of_attempts_is_bounded_and_none_switches_it_off() -> None:
    assert decided(Unsent(BROKEN), sent=3) == GiveUp()
    never = RetryPolicy(retries=0)
    assert decide(never, Unsent(BROKEN), Repeat.READS, sent=1, left_s=60, draw=0.5) == GiveUp()


def test_waits_are_jittered_by_half() -> None:
    waits = [decide(POLICY, Unsent(BROKEN), Repeat.ACTS, sent=1, left_s=60, draw=draw) for draw in (0.0, 0.999)]
    assert waits[0] == Wait(0.05)
    assert isinstance(waits[1], Wait)
    assert waits[1].seconds == pytest.approx(0.15, abs=0.001)
