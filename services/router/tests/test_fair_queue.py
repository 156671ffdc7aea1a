"""Start-time fair queueing keeps its bound, and the limit follows latency and nothing else."""

import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moorage_router.fairness.gradient import LEAST_SAMPLES, WINDOW_S, Gradient2, Usual
from moorage_router.fairness.queue import FairQueue, Waiting

COSTS = st.floats(min_value=0.01, max_value=10)
WEIGHTS = st.floats(min_value=0.1, max_value=100)


def queue() -> FairQueue[int]:
    return FairQueue(10_000, 100_000)


def filled(flows: dict[str, tuple[float, list[float]]], callers: int = 1) -> FairQueue[int]:
    """Each flow's weight and the costs of what waits."""
    made = queue()
    for name, (weight, costs) in flows.items():
        flow = made.flow(name)
        flow.weight = weight
        for number, cost in enumerate(costs):
            made.push(flow, f"{name}-{number % callers}", cost, number)
    return made


@given(
    st.lists(st.tuples(WEIGHTS, st.lists(COSTS, min_size=30, max_size=60)), min_size=2, max_size=5),
    st.randoms(use_true_random=False),
)
@settings(max_examples=150, deadline=None)
def test_what_two_waiting_flows_got_by_weight_differs_by_no_more_than_a_request_of_each(
    flows: list[tuple[float, list[float]]], draw: random.Random
) -> None:
    made = filled({str(n): flow for n, flow in enumerate(flows)})
    names = [str(n) for n in range(len(flows))]
    got = dict.fromkeys(names, 0.0)
    history = [dict(got)]
    while all(made.flow(name).queued for name in names):
        waiting = made.pop()
        assert waiting is not None
        got[waiting.flow.name] += waiting.cost / waiting.flow.weight
        history.append(dict(got))
    largest = {str(n): max(costs) / weight for n, (weight, costs) in enumerate(flows)}
    for _ in range(50):
        first, last = sorted((draw.randrange(len(history)), draw.randrange(len(history))))
        one, other = draw.sample(names, 2)
        between = [history[last][name] - history[first][name] for name in (one, other)]
        assert abs(between[0] - between[1]) <= largest[one] + largest[other] + 1e-6


@given(st.lists(st.lists(COSTS, min_size=10, max_size=10), min_size=2, max_size=4))
@settings(max_examples=100, deadline=None)
def test_callers_of_one_tenant_get_equal_parts_of_its_own(costs: list[list[float]]) -> None:
    made = queue()
    flow = made.flow("a")
    for number, of_caller in enumerate(costs):
        for cost in of_caller:
            made.push(flow, str(number), cost, 0)
    got = [0.0] * len(costs)
    while all(flow.callers[str(n)].queue for n in range(len(costs))):
        waiting = made.pop()
        assert waiting is not None
        got[int(waiting.caller)] += waiting.cost
        if not flow.queued:
            break
    assert max(got) - min(got) <= 2 * max(max(of_caller) for of_caller in costs) + 1e-6


def test_requests_of_one_caller_go_in_the_order_in_which_they_came() -> None:
    made = filled({"a": (1.0, [1.0] * 20), "b": (2.0, [3.0] * 20)})
    went: dict[str, list[int]] = {"a": [], "b": []}
    while (waiting := made.pop()) is not None:
        went[waiting.flow.name].append(waiting.item)
    assert all(numbers == sorted(numbers) and len(numbers) == 20 for numbers in went.values())


def test_who_was_away_is_neither_owed_nor_charged_for_it() -> None:
    made = filled({"a": (1.0, [1.0] * 100)})
    for _ in range(50):
        made.pop()
    made.push(made.flow("b"), "b", 1.0, 0)
    for number in range(20):
        made.push(made.flow("b"), "b", 1.0, number)
    went = Counter(waiting.flow.name for _ in range(20) if (waiting := made.pop()) is not None)
    assert abs(went["a"] - went["b"]) <= 2


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["push", "pop", "goes", "remove"])), max_size=200))
@settings(max_examples=150, deadline=None)
def test_virtual_time_never_runs_back_and_every_request_goes_once_or_leaves(steps: list[tuple[str, str]]) -> None:
    made = queue()
    there: list[Waiting[int]] = []
    times = [0.0]
    for name, step in steps:
        if step == "push":
            there.append(made.push(made.flow(name), name, 1.0, 0))
        elif step == "pop":
            waiting = made.pop()
            assert (waiting is None) == (not there)
            if waiting is not None:
                there.remove(waiting)
        elif step == "remove" and there:
            made.remove(there.pop(0))
        else:
            made.goes(made.flow(name), 1.0)
        times.append(made.virtual)
        assert made.queued == len(there)
    assert all(first <= then for first, then in pairwise(times))


def test_of_a_full_queue_the_newest_of_the_tenant_with_most_by_weight_leaves() -> None:
    made: FairQueue[int] = FairQueue(8, 10)
    premium, free = made.flow("premium"), made.flow("free")
    premium.weight = 4.0
    for number in range(5):
        assert made.shed(made.push(free, "f", 1.0, number)) is None
    for number in range(5):
        assert made.shed(made.push(premium, "p", 1.0, number)) is None
    victim = made.shed(made.push(premium, "p", 1.0, 5))
    assert victim is not None
    assert (victim.flow.name, victim.item) == ("free", 4)
    assert (free.queued, premium.queued, made.queued) == (4, 6, 10)


def test_of_a_tenant_with_too_many_the_caller_with_most_gives_way() -> None:
    made: FairQueue[int] = FairQueue(4, 100)
    flow = made.flow("a")
    for number in range(4):
        made.push(flow, "many", 1.0, number)
    arrived = made.push(flow, "few", 1.0, 9)
    victim = made.shed(arrived)
    assert victim is not None
    assert (victim.caller, victim.item) == ("many", 3)
    again = made.push(flow, "many", 1.0, 10)
    assert made.shed(again) is again, "of those with most it is the one that comes"
    assert made.shed(made.push(flow, "many", 1.0, 11), kept=True) is None


def answers(
    limit: Gradient2, took_s: float, windows: int, *, running: int | None = None, usual_s: float = 0.01
) -> None:
    now = getattr(answers, "now", 0.0)
    for _ in range(windows):
        now += WINDOW_S + 1e-6
        for _ in range(LEAST_SAMPLES):
            limit.add(took_s, usual_s, limit.limit if running is None else running, now)
    answers.now = now  # type: ignore[attr-defined]


def test_a_limit_grows_while_latency_stays_falls_when_it_rises_and_keeps_its_bounds() -> None:
    limit = Gradient2(20, 8, 200)
    answers(limit, 0.01, 20)
    assert 30 <= limit.limit <= 40, ".8 by window"
    answers(limit, 0.1, 3)
    assert limit.limit < 30
    answers(limit, 1.0, 200)
    assert limit.limit == 8
    answers(limit, 0.001, 2000)
    assert limit.limit == 200


def test_a_limit_that_is_not_used_does_not_grow() -> None:
    limit = Gradient2(20, 8, 200)
    answers(limit, 0.01, 100, running=9)
    assert limit.limit == 20


def test_a_limit_settles_where_latency_is_half_as_much_again_as_usual() -> None:
    limit = Gradient2(20, 2, 500)
    for _ in range(3000):
        answers(limit, 0.01 * max(1.0, limit.limit / 50), 1)
    settles = next(n for n in range(1, 500) if n * min(1.0, 1.5 / max(1.0, n / 50)) + 4 <= n)
    assert settles == pytest.approx(limit.limit, abs=3), "where gradient * limit + 4 = limit"


def test_what_is_usual_is_learnt_in_a_second_and_then_follows_over_ten_minutes() -> None:
    usual, now = Usual(), 0.0
    for _ in range(11):
        now += WINDOW_S + 1e-6
        usual.add(0.01, now)
    assert usual.value == pytest.approx(0.01)
    for _ in range(600):
        now += WINDOW_S + 1e-6
        usual.add(0.1, now)
    assert 0.01 < usual.value < 0.04, "a minute of overload is not usual"
