"""The book of batches under whatever is asked, answered and changed, in any order."""

from collections import Counter
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st
from test_signals_book import CANDIDATE, HOST, STABLE, Room, bad, requests

from moorage_common.contracts.signals import SignalBatch
from moorage_router.signals.batch import Mark, most_of_one

VERSIONS = st.sampled_from([STABLE, CANDIDATE])
CLIENTS, STRATA = st.sampled_from("abcdefghijkl"), st.sampled_from(["", "ring:x"])
STEPS = st.lists(
    st.one_of(
        st.tuples(VERSIONS, CLIENTS, STRATA),
        st.tuples(st.just("tell"), st.integers(0, 50), st.booleans()),
        st.tuples(st.just("pass"), st.sampled_from([0.3, 0.6, 8.0])),
        st.tuples(st.just("turn")),
    ),
    max_size=120,
)  # fmt: skip
STATUSES = st.lists(st.sampled_from([200, 400, 499, 500, 502, 504]), min_size=120, max_size=120)


@dataclass
class Told:
    """What a run was asked, by the batch it fell into, in order."""

    client: str
    version: int
    status: int = 0
    """0: never answered; -1: no host was asked."""


def run(steps: list[tuple[object, ...]], statuses: list[int]) -> tuple[list[SignalBatch], list[list[Told]]]:
    """The batches sent, and what the requests of each batch were, as the test saw them."""
    room, revision, left = Room(), 1, iter(statuses)
    judged = room.judged()
    batches: dict[int, list[Told]] = {}
    under_way: list[tuple[Mark, Told]] = []
    held = []
    for step in steps:
        match step:
            case ("tell", int(number), bool(was_asked)):
                if under_way:
                    mark, told = under_way.pop(number % len(under_way))
                    status = next(left)
                    if not mark.batch.closed or mark.batch in room.book.waiting:
                        told.status = status if was_asked else -1
                    mark.done(status, 1000, HOST if was_asked else None, "ok", None)
            case ("pass", float(seconds)):
                room.pass_s(seconds)
            case ("turn",):
                revision += 1
                judged = room.judged(revision)
            case (int(version), str(client), str(stratum)):
                begun = judged.begin(version, client, stratum)
                assert begun is not None
                told = Told(client, version)
                held.append(begun.batch)
                batches.setdefault(id(begun.batch), []).append(told)
                under_way.append((begun, told))
    room.book.close()
    room.pass_s(100)
    assert not room.book.waiting
    return room.taken, list(batches.values())


@given(STEPS, STATUSES)
def test_whatever_comes_each_request_counts_once_in_the_batch_it_was_routed_in(
    steps: list[tuple[object, ...]], statuses: list[int]
) -> None:
    taken, batches = run(steps, statuses)
    expected = []
    for batch in batches:
        most = most_of_one(len(batch), len({told.client for told in batch}))
        seen: Counter[str] = Counter()
        counts: Counter[tuple[int, bool]] = Counter()
        for told in batch:
            seen[told.client] += 1
            if told.status == 0 or (seen[told.client] <= most and told.status > 0):
                counts[told.version, told.status >= 500] += 1
        if counts:
            expected.append([counts[v, is_bad] for v in (CANDIDATE, STABLE) for is_bad in (False, True)])
    found = [
        [count for arm in (batch.candidate, batch.stable) for count in (requests(arm) - bad(arm), bad(arm))]
        for batch in taken
    ]
    assert sorted(found) == sorted(expected)
    assert [batch.seq for batch in taken] == list(range(1, len(taken) + 1))
    causes = [one.causes for batch in taken for arm in (batch.candidate, batch.stable) for one in arm.hosts]
    assert sum(sum(one.values()) for one in causes) == sum(bad(b.candidate) + bad(b.stable) for b in taken)


@given(STEPS, STATUSES, STATUSES)
def test_how_requests_end_never_decides_which_of_them_count(
    steps: list[tuple[object, ...]], statuses: list[int], other_statuses: list[int]
) -> None:
    def counted(statuses: list[int]) -> list[tuple[object, ...]]:
        return [
            (batch.revision, batch.stratum, batch.opened_at, batch.closed_at, requests(batch.candidate),
             requests(batch.stable))
            for batch in run(steps, statuses)[0]
        ]  # fmt: skip

    assert counted(statuses) == counted(other_statuses)
