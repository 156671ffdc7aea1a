from hypothesis import given
from hypothesis import strategies as st

from moorage_scheduler.changes import Change, Running, compare, makes_room


def host(
    name: str,
    *,
    ready: bool = True,
    leaving: bool = False,
    current: bool = True,
    at: float = 0.0,
    arriving: bool = False,
) -> Running:
    return Running(host_id=name, ready=ready, leaving=leaving, current=current, started_at=at, arriving=arriving)


def test_what_is_missing_is_started_and_what_is_leaving_counts_no_more() -> None:
    assert compare(2, [host("a"), host("b", leaving=True)]) == Change(start=1, retire=())


def test_of_too_many_those_not_ready_go_first_then_the_youngest() -> None:
    running = [host("old", at=1.0), host("young", at=2.0), host("starting", ready=False)]
    assert compare(1, running) == Change(start=0, retire=("young", "starting"))


def test_hosts_of_other_resources_go_one_by_one_as_their_successors_are_ready() -> None:
    old = [host("a", current=False), host("b", current=False, at=1.0)]
    assert compare(2, old) == Change(start=2, retire=())
    assert compare(2, [*old, host("c"), host("d", ready=False)]) == Change(start=0, retire=("b",))
    assert compare(2, [*old, host("c"), host("d")]) == Change(start=0, retire=("a", "b"))


def test_a_host_that_is_to_take_anothers_place_counts_for_nothing_until_that_one_has_gone() -> None:
    assert compare(1, [host("old"), host("new", arriving=True)]) == Change(start=0, retire=())
    assert compare(0, [host("old"), host("new", arriving=True)]) == Change(start=0, retire=("old",))


def test_where_nothing_else_makes_room_an_outdated_host_goes_first_but_never_under_the_minimum() -> None:
    old = [host("a", current=False), host("b", current=False, at=1.0)]
    assert makes_room(1, old) == "b"
    assert makes_room(2, old) is None
    assert makes_room(2, [*old, host("c")]) == "b"
    assert makes_room(2, [*old, host("dead", ready=False, current=False)]) == "dead"
    assert makes_room(0, [host("new")]) is None


running = st.lists(
    st.builds(
        Running,
        host_id=st.uuids().map(str),
        ready=st.booleans(),
        leaving=st.booleans(),
        current=st.booleans(),
        started_at=st.floats(0, 100),
    ),
    max_size=8,
)


@given(st.integers(0, 6), running)
def test_making_room_leaves_the_minimum_ready(least: int, hosts: list[Running]) -> None:
    gone = makes_room(least, hosts)
    ready = {one.host_id for one in hosts if one.ready and not one.leaving}
    assert len(ready - {gone}) >= min(least, len(ready))


@given(st.integers(0, 6), running)
def test_no_change_takes_ready_replicas_below_what_is_wanted(wanted: int, hosts: list[Running]) -> None:
    change = compare(wanted, hosts)
    ready = {one.host_id for one in hosts if one.ready and not one.leaving}
    assert len(ready - set(change.retire)) >= min(wanted, len(ready))
    staying = [one for one in hosts if one.current and not one.leaving and one.host_id not in change.retire]
    assert len(staying) + change.start == wanted
