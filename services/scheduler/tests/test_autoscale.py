from hypothesis import given
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
    bounds = Bounds(0, 2, 8)
    assert rescale(bounds, Scale(0), [], 0.0, 1000.0).wanted == 0
    woken = rescale(bounds, Scale(0), [], 1000.0, 1000.0)
    assert woken.wanted == 1
    assert rescale(bounds, woken, [], 1000.0, 1200.0).wanted == 1
    assert rescale(bounds, woken, [], 1000.0, 1301.0).wanted == 0


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
