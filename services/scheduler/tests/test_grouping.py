"""Which pool a version belongs to, and how many warm hosts to keep."""

from hypothesis import given
from hypothesis import strategies as st

from moorage_scheduler.grouping import PoolSize, grouped
from moorage_scheduler.hosts import VersionKey
from moorage_scheduler.sizing import WarmSize, fitting, wanted_warm

SIZE = PoolSize(versions=5, memory_mib=1)
KEYS = st.builds(lambda t, m, v: (f"t{t}", f"m{m}", v), st.integers(0, 2), st.integers(0, 9), st.integers(1, 2))
WANTED = st.dictionaries(KEYS, st.integers(0, 3 << 20), max_size=40)


@given(WANTED, WANTED)
def test_versions_stay_where_they_are_and_pools_hold_no_more_than_they_may(
    first: dict[VersionKey, int], second: dict[VersionKey, int]
) -> None:
    before = grouped(first.items(), {}, SIZE)
    after = grouped(second.items(), before, SIZE)
    assert after.keys() == second.keys()
    assert {key: after[key] for key in first.keys() & second.keys()} == {
        key: before[key] for key in first.keys() & second.keys()
    }
    for tenant, number in {(key[0], pool) for key, pool in after.items()}:
        inside = [key for key, pool in after.items() if (key[0], pool) == (tenant, number)]
        assert len(inside) <= SIZE.versions
        weight = sum(second[key] + 128 * 1024 for key in inside)
        assert weight <= 8 << 20 or any(key in before for key in inside)


@given(WANTED, KEYS, st.integers(0, 1 << 20))
def test_one_version_more_moves_no_other(wanted: dict[VersionKey, int], key: VersionKey, size_bytes: int) -> None:
    before = grouped(wanted.items(), {}, SIZE)
    after = grouped((wanted | {key: size_bytes}).items(), before, SIZE)
    assert {other: pool for other, pool in after.items() if other in before} == before


def test_a_tenants_hundred_versions_share_one_pool_and_no_other_tenants() -> None:
    wanted = [((tenant, f"m{number}", 1), 4096) for tenant in ("a", "b") for number in range(100)]
    assert set(grouped(wanted, {}, PoolSize()).values()) == {0}


def test_warm_hosts_are_as_many_as_starts_came_within_one_start_up() -> None:
    size = WarmSize(least=1, most=8)
    assert wanted_warm([], 10.0, 1000.0, 1, size) == 1
    assert wanted_warm([990.0, 995.0, 999.0], 10.0, 1000.0, 1, size) == 3
    assert wanted_warm([900.0, 995.0, 999.0], 10.0, 1000.0, 1, size) == 2
    assert wanted_warm([990.0, 995.0, 999.0], 10.0, 1000.0, 2, size) == 2
    assert wanted_warm([999.0] * 50, 10.0, 1000.0, 1, size) == 8
    assert wanted_warm([999.0] * 50, 10.0, 1000.0 + 601, 1, size) == 1, "a quarter of an hour later"


def test_warm_hosts_leave_where_replicas_need_the_memory() -> None:
    size = WarmSize(memory_mib=400)
    assert fitting(3, 10_000, size) == 3
    assert fitting(3, 900, size) == 2
    assert fitting(3, -200, size) == 0
