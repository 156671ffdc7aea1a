"""The lease on a real NATS: two candidates, killed, stopped and cut off in every order."""

import asyncio
import contextlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage_common.bus import Bus
from moorage_common.contracts.names import BUCKET_ENDPOINTS, BUCKET_LEASES
from moorage_common.contracts.versioned import Versioned
from moorage_common.kv import BucketReader
from moorage_common.testing.servers import Server
from moorage_common.tied import tied
from moorage_scheduler.leadership import (
    LEASE_S,
    MARGIN_S,
    RENEW_S,
    Leadership,
    LeadershipLost,
    Lease,
    Seen,
    Watch,
    holder_name,
    next_fencing,
)

pytestmark = pytest.mark.timeout(120)

HERE = Path(__file__).parent
CLUSTER = "test"
QUICK_S = 2.0
"""A lease of which two run out in a test's time."""
Note = Callable[[str, object], None]


async def until(condition: Callable[[], object], what: str, timeout_s: float = 40.0) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < timeout_s, f"no {what} within {timeout_s} s"
        await asyncio.sleep(0.01)
    return time.monotonic() - began


@dataclass
class Candidate:
    """`candidate.py` as a process; `said` is what it printed."""

    name: str
    process: subprocess.Popen[bytes]
    output: Path

    @property
    def said(self) -> str:
        return self.output.read_text()

    @property
    def fencing(self) -> int | None:
        """The number it leads with, or None before it does."""
        lines = [line for line in self.said.splitlines() if line.startswith("leading ")]
        return int(lines[-1].split()[1]) if lines else None

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


@dataclass
class Election:
    """Candidates of one test, and all that a reader took of what they wrote, in order: (epoch, version, by whom)."""

    url: str
    folder: Path
    taken: list[tuple[int, int, str]] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)

    def start(self, name: str, lease_s: float = QUICK_S) -> Candidate:
        output = self.folder / f"{name.replace('/', '-')}.log"
        with output.open("wb") as log:
            command = tied([sys.executable, str(HERE / "candidate.py"), self.url, name, str(lease_s)])
            candidate = Candidate(name, subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT), output)
        self.candidates.append(candidate)
        return candidate

    def take(self, _key: str, entry: Versioned) -> None:
        if entry.value is not None:
            self.taken.append((*entry.order, entry.value["by"]))

    def last_by(self) -> str:
        return self.taken[-1][2] if self.taken else ""

    async def leader_of(self, *candidates: Candidate) -> Candidate:
        await until(lambda: any(one.fencing for one in candidates), "leader")
        return next(one for one in candidates if one.fencing)


@pytest.fixture
async def election(own_nats: Server, tmp_path: Path) -> AsyncIterator[Election]:
    election = Election(own_nats.url, tmp_path)
    bus = Bus(own_nats.url, "reader")
    await bus.start()
    await bus.wait(10)
    await bus.bucket(BUCKET_ENDPOINTS)
    reading = asyncio.create_task(BucketReader(bus, BUCKET_ENDPOINTS, election.take).run())
    try:
        yield election
    finally:
        for candidate in election.candidates:
            candidate.process.kill()
            candidate.process.wait(10)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await bus.close()


async def test_of_two_candidates_one_leads_and_the_other_takes_over_when_it_is_killed(
    election: Election, record_property: Note
) -> None:
    one, two = election.start("one", LEASE_S), election.start("two", LEASE_S)
    leader = await election.leader_of(one, two)
    other = two if leader is one else one
    await until(lambda: election.last_by() == leader.name and other.said, "writes of the leader, and a standby")
    assert other.fencing is None
    leader.signal(signal.SIGKILL)
    killed_at = time.monotonic()
    await until(lambda: other.fencing, "takeover")
    took_s = time.monotonic() - killed_at
    record_property("takeover_s", round(took_s, 2))
    assert other.fencing > leader.fencing
    assert LEASE_S - RENEW_S - MARGIN_S <= took_s <= LEASE_S + 3 * RENEW_S + 2.0, "two seconds for a busy machine"
    await until(lambda: election.last_by() == other.name, "writes of its successor")


async def test_a_leader_that_is_started_anew_under_its_name_leads_at_once(
    election: Election, record_property: Note
) -> None:
    first = election.start("named/first", LEASE_S)
    await until(lambda: election.last_by() == first.name, "writes of the leader")
    first.signal(signal.SIGKILL)
    first.process.wait(10)
    second, stranger = election.start("named/second", LEASE_S), election.start("stranger", LEASE_S)
    await until(lambda: second.said, "its successor")
    stood_at = time.monotonic()
    await until(lambda: second.fencing, "takeover")
    took_s = time.monotonic() - stood_at
    record_property("renamed_takeover_s", round(took_s, 2))
    assert took_s < LEASE_S - RENEW_S - MARGIN_S
    await until(lambda: election.last_by() == second.name, "writes of its successor")
    assert stranger.fencing is None


async def test_a_leader_told_to_end_gives_the_lease_back_and_the_other_leads_without_waiting(
    election: Election, record_property: Note
) -> None:
    leader = election.start("one", 5.0)
    await until(lambda: leader.fencing, "leader")
    other = election.start("two", 5.0)
    await until(lambda: election.taken and other.said, "writes, and a standby")
    leader.signal(signal.SIGTERM)
    assert await asyncio.to_thread(leader.process.wait, 10) == 0
    took_s = await until(lambda: other.fencing, "takeover")
    record_property("handover_s", round(took_s, 2))
    assert took_s < 3.5
    assert other.fencing > leader.fencing


async def test_a_stopped_leader_that_goes_on_writes_nothing_that_wins_and_ends(election: Election) -> None:
    leader = election.start("one")
    await until(lambda: leader.fencing, "leader")
    other = election.start("two")
    await until(lambda: election.last_by() == "one", "writes of the leader")
    leader.signal(signal.SIGSTOP)
    await until(lambda: election.last_by() == "two", "writes of its successor")
    assert other.fencing > leader.fencing
    before = len(election.taken)
    leader.signal(signal.SIGCONT)
    assert await asyncio.to_thread(leader.process.wait, 20) == 1
    assert "lost two holds the lease" in leader.said
    await until(lambda: len(election.taken) >= before + 50, "further writes")
    orders = [(epoch, version) for epoch, version, _by in election.taken]
    assert orders == sorted(orders)
    assert {by for _epoch, _version, by in election.taken[before:]} == {"two"}
    assert other.process.poll() is None


async def test_a_leader_keeps_the_lease_over_a_restart_of_the_bus_and_the_standby_stands_by(
    election: Election, own_nats: Server
) -> None:
    leader = election.start("one")
    await until(lambda: leader.fencing, "leader")
    other = election.start("two")
    await until(lambda: election.taken, "writes")
    own_nats.kill()
    await asyncio.to_thread(_wait_out, QUICK_S)
    own_nats.start()
    before = len(election.taken)
    await until(lambda: len(election.taken) >= before + 20, "further writes")
    assert {by for *_order, by in election.taken} == {"one"}
    assert other.fencing is None
    assert leader.process.poll() is None


async def test_a_wiped_bucket_never_lowers_the_number_nor_makes_two_leaders(
    election: Election, own_nats: Server
) -> None:
    leader = election.start("one")
    await until(lambda: leader.fencing, "leader")
    other = election.start("two")
    await until(lambda: election.taken, "writes")
    bus = Bus(own_nats.url, "wiper")
    await bus.start()
    await bus.wait(10)
    await bus.jetstream().delete_key_value(BUCKET_LEASES)
    before = len(election.taken)
    await until(lambda: len(election.taken) >= before + 3 * 50, "further writes")
    assert {by for *_order, by in election.taken} == {"one"}, "its leader makes the lease anew"
    assert other.fencing is None
    leader.signal(signal.SIGKILL)
    await bus.jetstream().delete_key_value(BUCKET_LEASES)
    await bus.close()
    await until(lambda: other.fencing, "takeover")
    assert other.fencing > leader.fencing


async def test_a_whole_bus_lost_with_its_data_ends_the_leader_or_lets_it_lead_but_never_two(
    election: Election, own_nats: Server
) -> None:
    leader = election.start("one")
    await until(lambda: leader.fencing, "leader")
    await until(lambda: election.taken, "writes")
    own_nats.kill()
    await asyncio.to_thread(_wait_out, QUICK_S)
    shutil.rmtree(own_nats.directory / "jetstream")
    own_nats.start()
    assert await asyncio.to_thread(leader.process.wait, 20) == 1
    assert "was wiped" in leader.said
    again = election.start("again")
    await until(lambda: again.fencing, "leader anew")
    assert again.fencing > leader.fencing
    await until(lambda: election.last_by() == "again", "its writes")


@pytest.mark.slow
async def test_whatever_is_stopped_killed_or_restarted_each_number_has_one_author_and_readers_see_them_rise(
    election: Election, own_nats: Server
) -> None:
    chance = random.Random(7)
    names = iter(range(100))
    candidates = [election.start(f"c{next(names)}") for _ in range(3)]
    await election.leader_of(*candidates)
    for _fault in range(10):
        candidates = [one for one in candidates if one.process.poll() is None]
        while len(candidates) < 3:
            candidates.append(election.start(f"c{next(names)}"))
        leaders = [one for one in candidates if one.name == election.last_by()] or candidates
        victim = chance.choice(leaders)
        match chance.choice(["stop", "kill", "end", "bus"]):
            case "stop":
                victim.signal(signal.SIGSTOP)
                await asyncio.sleep(chance.uniform(0.2, 2 * QUICK_S))
                victim.signal(signal.SIGCONT)
            case "kill":
                victim.signal(signal.SIGKILL)
            case "end":
                victim.signal(signal.SIGTERM)
            case "bus":
                own_nats.kill()
                await asyncio.sleep(chance.uniform(0.1, QUICK_S))
                own_nats.start()
        before = len(election.taken)
        await until(lambda before=before: len(election.taken) > before + 20, "writes again")
    authors: dict[int, set[str]] = {}
    for epoch, _version, by in election.taken:
        authors.setdefault(epoch, set()).add(by)
    assert all(len(by) == 1 for by in authors.values()), authors
    orders = [(epoch, version) for epoch, version, _by in election.taken]
    assert orders == sorted(orders)
    assert len(authors) > 3


def _wait_out(lease_s: float) -> None:
    """What is waited for is that nothing happens."""
    time.sleep(lease_s + 0.5)


@contextlib.asynccontextmanager
async def standing(url: str, **fields: object) -> AsyncIterator[Leadership]:
    bus = Bus(url, "one")
    await bus.start()
    try:
        yield Leadership(bus, CLUSTER, lease_s=0.6, renew_s=0.1, margin_s=0.1, **fields)  # type: ignore[arg-type]
    finally:
        await bus.close()


async def test_a_number_found_on_what_runs_is_risen_above_with_the_lease_in_hand(own_nats: Server) -> None:
    ahead = int(time.time()) + 3600
    async with standing(own_nats.url) as one, standing(own_nats.url) as two:
        await one.acquire()
        await one.rise_above(ahead)
        assert one.fencing == ahead + 1
        await one.release()
        assert not one.valid()
        assert await two.acquire() == ahead + 2


async def test_a_lease_is_given_back_though_a_renewal_was_not_confirmed(own_nats: Server) -> None:
    async with standing(own_nats.url) as one, standing(own_nats.url) as two:
        await one.acquire()
        confirmed = one._revision
        await one._renew()
        one._revision = confirmed
        await one.release()
        began = time.monotonic()
        await two.acquire()
        assert time.monotonic() - began < one.lease_s / 2


async def test_a_leader_whose_lease_was_taken_is_told_so_and_may_act_no_more(own_nats: Server) -> None:
    skipped = 0.0

    def clock() -> float:
        return time.monotonic() + skipped

    async with standing(own_nats.url, clock=clock) as one, standing(own_nats.url) as two:
        await one.acquire()
        assert one.valid()
        assert one.role == "leader"
        skipped = 10.0
        assert not one.valid(), "by its own clock, before it has heard of another"
        await two.acquire()
        with pytest.raises(LeadershipLost):
            await one.keep()
        assert not one.valid()


async def test_a_standby_knows_who_leads(own_nats: Server) -> None:
    async with standing(own_nats.url, holder="one") as one, standing(own_nats.url) as two:
        assert (two.role, two.leader) == ("candidate", "")
        await one.acquire()
        keeping = asyncio.create_task(one.keep())
        waiting = asyncio.create_task(two.acquire())
        await until(lambda: two.role == "standby", "standby")
        assert two.leader == "one"
        for task in (keeping, waiting):
            task.cancel()
        await asyncio.gather(keeping, waiting, return_exceptions=True)


@given(st.lists(st.tuples(st.floats(0, 2e9), st.booleans()), min_size=2, max_size=30))
def test_fencing_numbers_rise_strictly_whatever_clocks_say_and_however_often_the_bucket_is_wiped(
    takeovers: list[tuple[float, bool]],
) -> None:
    """A candidate keeps what it saw over a wiped bucket; clocks go where they like."""
    numbers: list[int] = []
    stored = highest_seen = 0
    for now, wiped in takeovers:
        stored = 0 if wiped else stored
        highest_seen = max(highest_seen, stored)
        stored = next_fencing(highest_seen, now)
        highest_seen = max(highest_seen, stored)
        numbers.append(stored)
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize(
    ("holder", "mine"), [("scheduler/a", True), ("scheduler-2/a", False), ("scheduler", False), ("a", False)]
)
def test_only_a_process_of_the_same_name_is_stood_in_for(*, holder: str, mine: bool) -> None:
    watch = Watch(Seen(Lease(holder=holder, fencing=7), 1), since=0.0)
    assert watch.may_take(0.1, LEASE_S, holder_name("scheduler")) == mine
    assert not watch.may_take(0.1, LEASE_S, holder_name())


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0.01, 3.0)), min_size=1, max_size=30))
def test_a_lease_is_taken_only_once_it_was_seen_unchanged_for_its_length(looks: list[tuple[int, float]]) -> None:
    now, changed_at, beat = 0.0, 0.0, -1
    watch: Watch | None = None
    for next_beat, later in looks:
        now += later
        if next_beat != beat:
            beat, changed_at = next_beat, now
        seen = Seen(Lease(holder="other", fencing=7, beat=beat), beat + 1)
        watch = Watch(seen, now) if watch is None else watch.follow(seen, now)
        assert watch.may_take(now, LEASE_S, "me") == (now - changed_at >= LEASE_S)
