"""Which versions stay in memory, against a model that keeps a plain list."""

from hypothesis import given
from hypothesis import strategies as st

from moorage_runtime.pooled.lru import Residents

BUDGET = 100
KEYS = st.integers(0, 12)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("admit"), KEYS, st.integers(1, 140)),
        st.tuples(st.just("use"), KEYS, st.just(0)),
        st.tuples(st.just("drop"), KEYS, st.just(0)),
        st.tuples(st.just("one"), KEYS, st.just(0)),
    ),
    max_size=60,
)


@given(STEPS, st.frozensets(KEYS, max_size=3))
def test_the_longest_unused_leave_first_and_only_as_many_as_the_budget_asks(
    steps: list[tuple[str, int, int]], busy: frozenset[int]
) -> None:
    residents: Residents[int] = Residents(BUDGET)
    oldest_first: list[int] = []
    sizes: dict[int, int] = {}
    for what, key, size in steps:
        leaving: list[int] = []
        if what == "admit":
            leaving = residents.admit(key, size, busy.__contains__)
            oldest_first = [*(k for k in oldest_first if k != key), key]
            sizes[key] = size
        elif what == "use" and key in residents:
            residents.touch(key)
            oldest_first = [*(k for k in oldest_first if k != key), key]
        elif what == "drop":
            residents.drop(key)
            oldest_first = [k for k in oldest_first if k != key]
        elif what == "one":
            leaving = residents.excess_one(busy.__contains__)
            assert len(leaving) == any(k not in busy for k in oldest_first)
        idle = [k for k in oldest_first if k not in busy and (what != "admit" or k != key)]
        assert leaving == idle[: len(leaving)]
        assert not busy & set(leaving)
        if what == "admit" and leaving:
            before_last = sum(sizes[k] for k in oldest_first if k not in leaving[:-1])
            assert before_last > BUDGET, "nothing leaves that need not"
        oldest_first = [k for k in oldest_first if k not in leaving]
        used = sum(sizes[k] for k in oldest_first)
        assert residents.used_bytes == used
        assert len(residents) == len(oldest_first)
        if what == "admit":
            assert used <= BUDGET or all(k in busy or k == key for k in oldest_first)
