from hypothesis import given, settings
from hypothesis import strategies as st

from moorage_scheduler.autoscale import Bounds, Sample, Scale, rescale

BOUNDS = Bounds(min_replicas=1, max_replicas=4, target_in_flight=8)


def test_a_burst_of_three_seconds_scales_up_at_once_to_what_it_needs() -> None:
    samples = [Sample(at, 24) for at in (98.0, 99.0, 100.0)]
    assert rescale(BOUNDS, Scale(1), samples, 0.0, 100.0).wanted == 3


def test_replicas_go_one_at_a_time_after_a_quiet_minute() -> None:
    scale, at = Scale(4), 1000.0
    burst = [Sample(at, 32)]
    assert rescale(BOUNDS, scale, burst, 0.0, at + 50).wanted == 4
    scale = rescale(BOUNDS, scale, burst, 0.0, at + 61)
    assert scale.wanted == 3
    assert rescale(BOUNDS, scale, burst, 0.0, at + 70).wanted == 3
    assert rescale(BOUNDS, scale, burst, 0.0, at + 77).wanted == 2


def test_a_lower_maximum_holds_at_once() -> None:
    samples = [Sample(100.0, 80)]
    assert rescale(Bounds(1, 2, 8), Scale(4), samples, 0.0, 100.0).wanted == 2


def test_a_version_that_may_have_none_is_started_when_woken_and_kept_until_idle() -> None:
    bounds = Bounds(0, 2, 8, idle_s=300)
    assert rescale(bounds, Scale(0), [], 0.0, 1000.0).wanted == 0
    woken = rescale(bounds, Scale(0), [], 1000.0, 1000.0)
    assert woken.wanted == 1
    assert rescale(bounds, woken, [], 1000.0, 1200.0).wanted == 1
    assert rescale(bounds, woken, [], 1000.0, 1301.0).wanted == 0


def test_an_idle_time_shorter_than_the_window_for_going_down_is_kept_all_the_same() -> None:
    bounds = Bounds(0, 4, 8, idle_s=5)
    burst = [Sample(1000.0, 32)]
    assert rescale(bounds, Scale(4), burst, 1000.0, 1004.0).wanted == 4
    assert rescale(bounds, Scale(4), burst, 1000.0, 1006.0).wanted == 0
    assert rescale(Bounds(1, 4, 8, idle_s=5), Scale(4), burst, 1000.0, 1006.0).wanted == 4, "only where none is allowed"


@given(
    st.integers(0, 4),
    st.integers(0, 8),
    st.integers(1, 64),
    st.integers(0, 12),
    st.lists(st.builds(Sample, at=st.floats(1000, 1100), in_flight=st.integers(0, 500)), max_size=20),
)
def test_the_wanted_number_never_leaves_its_bounds_for_more_than_it_was(
    least: int, more: int, target: int, current: int, samples: list[Sample]
) -> None:
    bounds = Bounds(least, least + more, target)
    wanted = rescale(bounds, Scale(current), samples, 0.0, 1100.0).wanted
    assert wanted >= least
    assert wanted <= bounds.max_replicas


loads = st.lists(st.integers(0, 200), min_size=1, max_size=90)
bounds_of_any_kind = st.builds(
    lambda least, more, target, idle: Bounds(least, least + more, target, idle),
    st.integers(0, 4), st.integers(0, 8), st.integers(1, 64), st.sampled_from([1.0, 5.0, 300.0]),
)  # fmt: skip


def run(bounds: Bounds, scale: Scale, in_flight: list[int], begun: float = 1000.0) -> list[int]:
    """What is wanted at each second of a load."""
    samples: list[Sample] = []
    asked_at, found = 0.0, []
    for second, load in enumerate(in_flight):
        now = begun + second
        samples = [*samples[-61:], Sample(now, load)]
        asked_at = now if load else asked_at
        scale = rescale(bounds, scale, samples, asked_at, now)
        found.append(scale.wanted)
    return found


@settings(deadline=None)
@given(bounds_of_any_kind, st.integers(0, 12), loads)
def test_no_load_takes_the_number_out_of_its_bounds(bounds: Bounds, current: int, in_flight: list[int]) -> None:
    wanted = run(bounds, Scale(min(max(current, bounds.min_replicas), bounds.max_replicas)), in_flight)
    assert all(bounds.min_replicas <= one <= bounds.max_replicas for one in wanted)


@settings(deadline=None)
@given(bounds_of_any_kind, st.integers(0, 12), st.integers(0, 300))
def test_under_a_constant_load_the_number_settles_and_never_turns(bounds: Bounds, current: int, load: int) -> None:
    start = min(max(current, bounds.min_replicas), bounds.max_replicas)
    wanted = run(bounds, Scale(start), [load] * 220)
    steps = [after - before for before, after in zip([start, *wanted], wanted, strict=False) if after != before]
    assert all(step > 0 for step in steps) or all(step < 0 for step in steps)
    needed = -(-load // bounds.target_in_flight)
    least = max(bounds.min_replicas, 1 if load else 0)
    assert wanted[-1] == min(max(needed, least), bounds.max_replicas)


@settings(deadline=None)
@given(st.integers(1, 8), st.integers(1, 16), st.lists(st.integers(-1, 1), min_size=300, max_size=300))
def test_a_load_that_trembles_within_one_replicas_worth_is_followed_up_at_most_once_and_not_down(
    replicas: int, target: int, tremble: list[int]
) -> None:
    in_flight = [max(1, replicas * target + one) for one in tremble]
    wanted = run(Bounds(1, 20, target), Scale(replicas), in_flight)
    assert set(wanted[60:]) <= {replicas, replicas + 1, replicas + 2}
    for at in range(1, len(wanted)):
        if wanted[at] < wanted[at - 1]:
            lately = max(in_flight[max(0, at - 60) : at + 1])
            assert lately <= wanted[at] * target, "it goes down only after a minute that needed no more"
