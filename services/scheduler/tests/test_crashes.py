"""When deaths of hosts speak against their version."""

from moorage_scheduler.cluster import HostGone
from moorage_scheduler.crashes import CRASHES, LASTING_S, Crashes, first_line

KEY = ("acme", "m", 1)


def row(*deaths: tuple[float, list[float | None]]) -> int:
    """How many in a row there are after `deaths`: when each was, and since when those of the version were ready."""
    crashes = Crashes()
    for now, ready_since in deaths:
        crashes.count(KEY, ready_since, now)
    return crashes.in_a_row(KEY)


def test_deaths_of_hosts_that_did_not_last_are_a_row() -> None:
    assert row((1.0, [None]), (20.0, [10.0]), (40.0, [30.0])) == CRASHES


def test_a_host_that_lasted_begins_a_new_row() -> None:
    assert row((1.0, [None]), (20.0, [10.0]), (30.0 + LASTING_S, [30.0])) == 1


def test_no_number_of_deaths_speaks_against_a_version_that_a_sibling_serves_for_long() -> None:
    assert row(*((100.0 + 5 * death, [98.0 + 5 * death, 0.0]) for death in range(10))) == 1


def test_siblings_that_all_die_without_lasting_are_one_row() -> None:
    assert row((10.0, [5.0, 6.0]), (11.0, [6.0]), (20.0, [15.0])) == CRASHES


def test_a_row_is_forgotten_with_a_lost_node() -> None:
    crashes = Crashes()
    crashes.count(KEY, [None], 1.0)
    crashes.count(KEY, [None], 2.0)
    crashes.forget(KEY)
    crashes.count(KEY, [None], 3.0)
    assert crashes.in_a_row(KEY) == 1


def test_what_ray_lists_of_other_processes_on_the_node_stays_out_of_what_a_tenant_is_told() -> None:
    error = HostGone("The actor died unexpectedly.\n\tip: 10.0.0.7\nTop 10 memory users:\n71 2.5 ray::acme.llm.1")
    assert first_line(error) == "The actor died unexpectedly."
