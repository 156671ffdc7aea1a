"""Which requests of a rollout count, and as what: the book of batches, without a bus or a clock."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from moorage_common.contracts.endpoints import Endpoint
from moorage_common.contracts.feedback import Output
from moorage_common.contracts.routes import Route, RouteRollout
from moorage_common.contracts.signals import COUNTED_A_SECOND, ArmCounts, SignalBatch, bucket_of
from moorage_router.pool import Pool
from moorage_router.replicas import Host
from moorage_router.signals.batch import Mark, most_of_one
from moorage_router.signals.book import GRACE_S, Book, Judged
from moorage_router.signals.memory import Memory

STABLE, CANDIDATE, ANOTHER = 1, 2, 3


def host(host_id: str = "h", generation: str = "g") -> Host:
    endpoint = Endpoint(
        cluster="default", host_id=host_id, tenant="demo", address="127.0.0.1:1", generation=generation, token="t",
        versions=[],
    )  # fmt: skip

    async def made() -> Host:
        return Host(endpoint, Pool(endpoint.address, 1))

    return asyncio.run(made())


HOST = host()


@dataclass
class Room:
    """A book whose clock stands still until it is told."""

    at: float = 1000.0
    taken: list[SignalBatch] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.book = Book("router", "boot", self.taken.append, self.clock, self.clock)

    def clock(self) -> float:
        return self.at

    def judged(self, revision: int = 1, rollout: str = "r", skip_first: int = 0) -> Judged:
        told = RouteRollout(id=rollout, stable=STABLE, candidate=CANDIDATE, skip_first=skip_first)
        route = Route(tenant="demo", model="m", revision=revision, arms=[], versions=[], rollout=told, deadline_ms=5000)
        judged = self.book.judge(route)
        assert judged is not None
        return judged

    def pass_s(self, seconds: float) -> None:
        self.at += seconds
        self.book.sweep()

    @property
    def batch(self) -> SignalBatch:
        """The only one so far."""
        assert len(self.taken) == 1
        return self.taken[0]


def requests(arm: ArmCounts) -> int:
    return sum(one.requests for one in arm.hosts)


def bad(arm: ArmCounts) -> int:
    return sum(one.bad for one in arm.hosts)


def timed(arm: ArmCounts) -> int:
    return sum(sum(one.slow.values()) for one in arm.hosts)


def good(mark: Mark | None, took_us: int = 1000) -> None:
    assert mark is not None
    mark.done(200, took_us, HOST, "ok", None)


def failed(mark: Mark | None, status: int = 500) -> None:
    assert mark is not None
    mark.done(status, 1000, HOST, "ok", None)


def answered(mark: Mark | None, output: Output) -> None:
    assert mark is not None
    mark.done(200, 1000, HOST, "ok", output)


# -- when a batch is opened, closed and sent


def test_a_batch_is_closed_after_a_second_and_sent_when_its_last_request_is_answered() -> None:
    room = Room()
    judged = room.judged()
    slow, quick = judged.begin(STABLE, "a"), judged.begin(CANDIDATE, "a")
    good(quick)
    room.pass_s(0.9)
    later = judged.begin(STABLE, "a")
    room.pass_s(0.2)
    good(later)
    assert room.taken == []
    good(judged.begin(STABLE, "a"))
    good(slow)
    assert (requests(room.batch.stable), requests(room.batch.candidate)) == (2, 1)
    assert (room.batch.opened_at, room.batch.closed_at) == (1000.0, 1001.1)


def test_a_batch_is_closed_with_its_five_hundredth_request() -> None:
    room = Room()
    judged = room.judged()
    for _ in range(1000):
        good(judged.begin(STABLE, "a"))
    assert [(batch.seq, requests(batch.stable)) for batch in room.taken] == [(1, 500), (2, 500)]


def test_a_new_revision_closes_the_batches_and_what_is_still_routed_by_the_old_one_is_not_counted() -> None:
    room = Room()
    before = room.judged(revision=1)
    under_way = before.begin(CANDIDATE, "a")
    after = room.judged(revision=2)
    assert before.begin(CANDIDATE, "a") is None
    good(after.begin(CANDIDATE, "a"))
    failed(under_way)
    room.pass_s(2)
    assert [(batch.revision, requests(batch.candidate), bad(batch.candidate)) for batch in room.taken] == [
        (1, 1, 1), (2, 1, 0),
    ]  # fmt: skip


def test_strata_are_batches_of_their_own() -> None:
    room = Room()
    judged = room.judged()
    good(judged.begin(STABLE, "a"))
    good(judged.begin(CANDIDATE, "a", "ring:staff"))
    room.pass_s(2)
    told = {batch.stratum: (requests(batch.candidate), requests(batch.stable)) for batch in room.taken}
    assert told == {"": (0, 1), "ring:staff": (1, 0)}


def test_batch_ids_go_on_when_a_rollout_leaves_a_route_and_comes_back() -> None:
    room = Room()
    for revision in range(3):
        good(room.judged(revision=revision).begin(STABLE, "a"))
        assert room.book.judge(Route(tenant="demo", model="m", revision=9, arms=[], versions=[])) is None
    good(room.judged(rollout="another").begin(STABLE, "a"))
    room.book.forget("demo", "m")
    assert [batch.batch_id for batch in room.taken] == [
        "r:router:boot:1", "r:router:boot:2", "r:router:boot:3", "another:router:boot:1",
    ]  # fmt: skip


def test_what_is_not_answered_when_its_deadline_has_passed_was_asked_and_is_not_bad() -> None:
    room = Room()
    judged = room.judged()
    good(judged.begin(CANDIDATE, "a"))
    forgotten = judged.begin(CANDIDATE, "a")
    room.pass_s(1.1)
    room.pass_s(5 + GRACE_S - 0.1)
    assert room.taken == []
    room.pass_s(0.2)
    failed(forgotten)
    assert (requests(room.batch.candidate), bad(room.batch.candidate)) == (2, 0)
    assert not room.book.waiting


# -- what counts


def test_another_versions_requests_take_no_part() -> None:
    assert Room().judged().begin(ANOTHER, "a") is None


def test_only_what_the_version_did_is_bad() -> None:
    room = Room()
    judged = room.judged()
    bad_ones = [(500, "ok"), (503, "ok"), (504, "ok"), (502, "ok"), (200, "nan")]
    others = [(status, "ok") for status in (200, 400, 401, 403, 404, 413, 422, 429, 499)] + [(200, "constant")]
    for number, (status, state) in enumerate(bad_ones + others):
        mark = judged.begin(CANDIDATE, f"client {number}")
        assert mark is not None
        mark.done(status, 1000, HOST, state, None)
    room.pass_s(1.1)
    assert requests(room.batch.candidate) == len(bad_ones + others)
    causes = {"500": 1, "503": 1, "timeout": 1, "lost": 1, "nan": 1}
    assert [one.causes for one in room.batch.candidate.hosts] == [causes]


def test_a_request_that_no_host_was_asked_is_not_counted() -> None:
    room = Room()
    judged = room.judged()
    for status in (503, 413, 499):
        mark = judged.begin(CANDIDATE, "a")
        assert mark is not None
        mark.done(status, 0, None, "ok", None)
    room.pass_s(2)
    assert room.taken == []
    good(judged.begin(CANDIDATE, "a"))
    room.pass_s(2)
    assert (room.batch.seq, requests(room.batch.candidate)) == (1, 1)


def test_retries_under_one_idempotency_key_count_once_for_each_key_of_the_platform() -> None:
    judged = Room().judged()
    assert judged.begin(STABLE, "a", idempotency=b"1") is not None
    assert judged.begin(STABLE, "a", idempotency=b"1") is None
    assert judged.begin(CANDIDATE, "a", idempotency=b"1") is None
    assert judged.begin(STABLE, "b", idempotency=b"1") is not None
    assert judged.begin(STABLE, "a", idempotency=b"2") is not None


def test_idempotency_keys_are_remembered_up_to_a_bound_those_seen_last_for_longest() -> None:
    memory = Memory(retries=100)
    for n in range(1000):
        assert not memory.is_retry("a", b"%d" % n)
        assert memory.is_retry("a", b"%d" % max(0, n - 50))
    assert not memory.is_retry("a", b"0")


def test_of_a_busy_second_the_first_thousand_requests_of_a_stratum_count() -> None:
    room = Room()
    judged = room.judged()

    def counted(requests: int, stratum: str = "") -> int:
        marks = [judged.begin(STABLE, "a", stratum) for _ in range(requests)]
        for mark in marks:
            if mark is not None:
                good(mark)
        return len(marks) - marks.count(None)

    assert counted(3 * COUNTED_A_SECOND) == COUNTED_A_SECOND
    assert counted(10, "ring:staff") == 10
    room.pass_s(1.1)
    assert counted(COUNTED_A_SECOND + 5) == COUNTED_A_SECOND
    room.pass_s(1.1)
    told = [host.requests for batch in room.taken for host in batch.stable.hosts if not batch.stratum]
    assert sum(told) == 2 * COUNTED_A_SECOND


@given(st.lists(st.integers(0, 14), min_size=1, max_size=200))
def test_no_client_weighs_more_than_a_tenth_of_a_batch_or_its_equal_share_of_few_and_its_first_requests_count(
    clients: list[int],
) -> None:
    room = Room()
    judged = room.judged()
    for number, client in enumerate(clients):
        good(judged.begin(STABLE, str(client)), took_us=1000 * (number + 1))
    room.pass_s(2)
    most = most_of_one(len(clients), len(set(clients)))
    assert most - 1 < len(clients) / min(10, len(set(clients))) <= most
    asked: Counter[int] = Counter()
    counted: Counter[int] = Counter()
    for number, client in enumerate(clients):
        asked[client] += 1
        if asked[client] <= most:
            counted[bucket_of(1000 * (number + 1))] += 1
    assert room.batch.stable.hosts[0].slow == dict(counted)
    assert requests(room.batch.stable) == counted.total()


# -- sticky traffic


def test_a_sticky_keys_first_bad_event_is_its_last_request_that_counts() -> None:
    room = Room()
    judged = room.judged()
    good(judged.begin(CANDIDATE, "a", key=7))
    room.pass_s(2)
    failed(judged.begin(CANDIDATE, "a", key=7))
    failed(judged.begin(CANDIDATE, "a", key=8))
    room.pass_s(2)
    assert judged.begin(CANDIDATE, "a", key=7) is None
    assert room.judged(revision=2).begin(CANDIDATE, "a", key=8) is None
    assert room.judged(rollout="the next").begin(CANDIDATE, "a", key=7) is not None
    assert [requests(batch.candidate) for batch in room.taken] == [1, 2]
    assert [batch.candidate.bad_keys for batch in room.taken] == [[], [7, 8]]


def test_a_sticky_key_weighs_one_request_in_a_batch() -> None:
    room = Room()
    judged = room.judged()
    good(judged.begin(CANDIDATE, "a", key=7))
    assert judged.begin(CANDIDATE, "a", key=7) is None
    good(judged.begin(CANDIDATE, "a", key=8))
    room.pass_s(2)
    assert requests(room.batch.candidate) == 2
    assert judged.begin(CANDIDATE, "a", key=7) is not None


def test_two_answers_to_one_sticky_key_that_go_wrong_at_one_time_are_one_bad_event() -> None:
    room = Room()
    judged = room.judged()
    first = judged.begin(CANDIDATE, "a", key=7)
    room.pass_s(2)
    failed(judged.begin(CANDIDATE, "a", key=7))
    failed(first)
    room.pass_s(2)
    assert sum(bad(batch.candidate) for batch in room.taken) == 1
    assert [key for batch in room.taken for key in batch.candidate.bad_keys] == [7]


def test_a_sticky_keys_latency_counts_once_under_a_revision() -> None:
    room = Room()
    judged = room.judged(skip_first=1)
    for _ in range(4):  # one request of a new replica, which is not timed, one that is refused, and two more
        mark = judged.begin(STABLE, "a", key=7)
        assert mark is not None
        mark.done(400 if len(room.taken) == 1 else 200, 1000, HOST, "ok", None)
        room.pass_s(2)
    assert [timed(batch.stable) for batch in room.taken] == [0, 0, 1, 0]
    good(room.judged(revision=2).begin(STABLE, "a", key=7))
    room.pass_s(2)
    assert timed(room.taken[-1].stable) == 1


def test_beyond_the_keys_that_are_remembered_no_further_key_counts() -> None:
    memory = Memory(keys=2)
    for key in (1, 2):
        assert memory.may_count(key)
        assert memory.may_time(key)
        assert memory.is_first_bad(key)
    assert not memory.may_count(3)
    assert not memory.may_time(3)


# -- latency


def test_the_first_requests_of_each_generation_of_a_replica_are_not_timed() -> None:
    room = Room()
    judged = room.judged(skip_first=2)
    hosts = [host("h", "g1"), host("h", "g2"), host("other", "g1")]
    for one in hosts * 3:
        mark = judged.begin(STABLE, "a")
        assert mark is not None
        mark.done(200, 1000, one, "ok", None)
    mark = judged.begin(CANDIDATE, "a")
    assert mark is not None
    mark.done(200, 1000, hosts[0], "ok", None)
    room.pass_s(2)
    assert {one.host: (one.requests, one.slow) for one in room.batch.stable.hosts} == {
        "h": (6, {bucket_of(1000): 2}), "other": (3, {bucket_of(1000): 1}),
    }  # fmt: skip
    assert timed(room.batch.candidate) == 0


def test_who_was_waited_for_until_a_deadline_or_until_the_caller_left_is_timed_and_a_refusal_is_not() -> None:
    room = Room()
    judged = room.judged()
    for status in (504, 499, 200, 500, 502, 400):
        failed(judged.begin(STABLE, "a"), status)
    room.pass_s(2)
    assert (timed(room.batch.stable), bad(room.batch.stable), requests(room.batch.stable)) == (3, 3, 6)
