"""Rollouts that end by themselves: real models, steady callers, and nobody who looks.

Five kinds of candidates are rolled out side by side: one slower, one failing, one wrong, identical ones, one that
cannot be loaded. What is asked of each is asked of what lies there then: verdicts, the log, and every answer of every
caller. Others go on while the registry, a router or the bus is away.
"""

import contextlib
import itertools
import os
import signal
import time
from collections.abc import Iterator, Sequence

import pytest
from e2e_platform import Note, Platform, until
from e2e_rollout_load import Answered, Traffic
from e2e_rollout_models import Behaviour
from e2e_rollouts import FINAL, Case, Ended, Json, Rollouts, answered, counted, damage, instant, prepare

pytestmark = pytest.mark.timeout(600)

MOST_S = 300.0
UNDER_WAY_S = 2.0
LABELS_AFTER_S = 30.0
KILLS, AWAY_S = 10, 6.0
MISSED = 150
"""Requests of three seconds: what a killed router had counted and not told of, or a killed bus not handed on."""
WAITING = 10
IDENTICAL, ROUNDS = 10, 2
POLICY: Json = {
    "steps": [{"weight": 25, "at_least_s": 4, "at_most_s": 150}, {"weight": 50, "at_least_s": 4, "at_most_s": 150}],
    "baseline_requests": 300,
    "baseline_at_most_s": 30,
    "candidate_hosts": 1,
    "errors": {"margin_pp": 8},
    "latency": {"margin_pct": 1000, "skip_first": 20},
    "beta": 0.2,
    "guard": {"for_s": 5, "holdback": 5},
}
"""Margins so wide that a few hundred requests promote; what rolls back is as by default."""

SLOWER = Case("slower", Behaviour(work=200), Behaviour(work=60))
FAILING = Case("failing", Behaviour(failing=0.05))
WRONG = Case("wrong", Behaviour(wrong=0.35), labels_after_s=LABELS_AFTER_S, policy={"quality": {"needed": True}})
BROKEN = Case("broken", Behaviour(seed=99))
STICKY = Case("sticky", Behaviour(), callers=200, sticky=True, policy={"latency": {"on": False}})
"""A key's latency counts once: with so few keys there would be no evidence of it."""
RING = Case(
    "ringed",
    Behaviour(),
    callers=60,
    ring=30,
    per_second=30,
    policy={"steps": [{"ring": "ringed", "weight": 50, "at_least_s": 4, "at_most_s": 150}, *POLICY["steps"][1:]]},
)
HALF: Json = {"steps": POLICY["steps"][1:]}
SAME = [
    Case(f"same-{n}", Behaviour(), per_second=30, pooled=n > 1, held=True, rounds=ROUNDS, policy=HALF)
    for n in range(IDENTICAL)
]
LONG: Json = {
    "baseline_requests": 200,
    "steps": [{"weight": 40, "at_least_s": 75, "at_most_s": 95}],
    "on_no_evidence": "promote",
    "guard": {"for_s": 40, "holdback": 5},
}
SHORT: Json = {
    "baseline_requests": 200,
    "steps": [{"weight": 40, "at_least_s": 15, "at_most_s": 60}],
    "on_no_evidence": "promote",
}
"""What must survive goes on when its time has come: that is not to depend on how busy the machine is."""
LASTS = Case("lasts", Behaviour(), per_second=40, policy=LONG)
WORSE = Case("worse", Behaviour(failing=0.05), Behaviour(failing=0.02), per_second=30, policy=LONG)
QUIET = Case("quiet", Behaviour(), per_second=40, policy=SHORT)
SPLIT = Case("split", Behaviour(), per_second=40, policy=SHORT)
CASES = [SLOWER, FAILING, WRONG, BROKEN, STICKY, RING, *SAME]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform of this module's own, with two routers."""
    platform = Platform(tmp_path_factory.mktemp("rollouts") / "state", ("--no-demo", "--routers", "2"))
    try:
        platform.start()
        with platform.admin() as admin:
            admin.registry.set_limits(platform.info["tenant"], {"max_concurrent": 10_000})
        yield platform
    finally:
        platform.end()


@pytest.fixture(scope="module")
def ended(platform: Platform, note: Note) -> Iterator[Ended]:
    """All cases, from push to their last rollout's end."""
    prepare(platform, CASES)
    with platform.client() as client:
        damage(platform, client.registry.version(BROKEN.model, 2).artifact_digest)
    streams = [case.stream for case in CASES]
    with (
        Rollouts.of(platform) as rollouts,
        Traffic(platform.info["router"], platform.info["api_key"], streams) as traffic,
    ):
        ended = Ended(rollouts, traffic)
        note("rollouts_took_s", round(ended.run(CASES, POLICY, MOST_S), 1))
        for case in CASES:
            goes_on(traffic, case.model)
            traffic.end(case.model)
        yield ended


def goes_on(traffic: Traffic, model: str, count: int = 20) -> None:
    """Wait for further answers."""
    now = time.time()
    until(lambda: sum(a.begun > now for a in traffic.answers(model)) >= count, 30, f"further answers of {model}")


def took_s(rollout: Json) -> float:
    return instant(rollout["finished_at"]) - instant(rollout["started_at"])


def rolled_back(ended: Ended, case: Case, note: Note) -> str:
    """Unattended; the signal that did it, and notes what it took."""
    (rollout,) = ended.of[case.model]
    assert rollout["state"] == "rolled_back", rollout
    verdict = ended.rollouts.verdicts(case.model, rollout["id"])["verdicts"][-1]
    answers = ended.traffic.answers(case.model)
    met = [answer for answer in answers if answer.version == rollout["candidate"]]
    at = instant(verdict["at"])
    note(f"rollout_{case.model}_s", round(at - met[0].begun, 1))
    note(f"rollout_{case.model}_requests", f"{len(met)} of the candidate")
    assert [answer for answer in met if answer.begun > at + 1] == []
    return str(verdict["detail"]["signal"])


def test_a_version_three_times_slower_is_rolled_back_for_its_latency(ended: Ended, note: Note) -> None:
    assert rolled_back(ended, SLOWER, note) == "latency"


def test_a_version_that_fails_on_one_of_twenty_requests_is_rolled_back_for_its_errors(ended: Ended, note: Note) -> None:
    assert rolled_back(ended, FAILING, note) == "errors"


def test_wrong_answers_are_rolled_back_by_labels_that_come_thirty_seconds_later(ended: Ended, note: Note) -> None:
    assert rolled_back(ended, WRONG, note) == "quality"


def test_a_version_whose_artifact_was_damaged_is_rolled_back_before_any_caller_meets_it(
    ended: Ended, note: Note
) -> None:
    (rollout,) = ended.of[BROKEN.model]
    assert rollout["state"] == "rolled_back", rollout
    assert "digest" in rollout["reason"], rollout
    assert {answer.version for answer in ended.traffic.answers(BROKEN.model)} == {1}
    note("rollout_broken_s", round(took_s(rollout), 1))


def test_identical_versions_are_promoted_twenty_times_out_of_twenty(ended: Ended, note: Note) -> None:
    rollouts = [rollout for case in SAME for rollout in ended.of[case.model]]
    assert len(rollouts) == IDENTICAL * ROUNDS
    assert [r for r in rollouts if r["state"] != "done"] == []
    took = sorted(took_s(rollout) for rollout in rollouts)
    note("rollouts_promoted_s", f"{took[len(took) // 2]:.1f} (median), {took[-1]:.1f} (slowest)")


def test_no_request_is_lost_by_any_rollout(ended: Ended, note: Note) -> None:
    lost = {case.model: ended.traffic.lost(case.model) for case in CASES}
    note("rollouts_requests", sum(len(ended.traffic.answers(case.model)) for case in CASES))
    assert {model: answers for model, answers in lost.items() if answers} == {}


def test_every_verdict_can_be_replayed_from_the_log_bit_for_bit(ended: Ended) -> None:
    for case in CASES:
        for rollout in ended.of[case.model]:
            verdicts = ended.rollouts.verdicts(case.model, rollout["id"])
            assert verdicts["intact"], verdicts
            replay = ended.rollouts.replay(case.model, rollout["id"])
            assert replay["same"], replay


def test_the_judge_was_told_of_every_request_once(ended: Ended) -> None:
    for case in (SLOWER, FAILING, *SAME[1:]):
        for rollout in ended.of[case.model]:
            told_twice, untold = miscounted(ended, case.model, rollout)
            assert told_twice <= len(ended.traffic.lost(case.model)), case.model
            assert untold <= 0, case.model


def miscounted(ended: Ended, model: str, rollout: Json) -> tuple[int, int]:
    """How many requests the judge was told of that nobody was answered, and of how many more than may be it was not.

    Of each revision and version as many as callers were answered, up to what had been read when it
    ended; those that wait for their quota while the route changes are not counted, whatever becomes of them.
    """
    entries = list(ended.rollouts.entries(model, rollout["id"]))
    told, answers = counted(entries), ended.traffic.answers(model)
    read_to = max(entry["entry"]["batch"]["opened_at"] for entry in entries if entry["kind"] == "batch")
    sure = [answer for answer in answers if answer.ended < read_to - UNDER_WAY_S]
    revisions = {revision for revision, _ in told}
    untold = (answered(sure, revisions) - told).total()
    return (told - answered(answers, revisions)).total(), untold - WAITING * len(revisions)


def test_a_caller_of_a_sticky_rollout_never_goes_back_to_the_old_version(ended: Ended) -> None:
    first = ended.of[STICKY.model][0]
    by_caller: dict[str, list[Answered]] = {}
    for answer in ended.traffic.answers(STICKY.model):
        if answer.ended < instant(first["finished_at"]):
            by_caller.setdefault(answer.caller, []).append(answer)
    seen = {caller: in_turn(answers) for caller, answers in by_caller.items()}
    assert all(versions in ([1], [2], [1, 2]) for versions in seen.values()), seen
    assert sum(versions == [1, 2] for versions in seen.values()) > len(seen) / 4


def test_a_ring_meets_the_new_version_first_and_nobody_else_does(ended: Ended) -> None:
    (rollout,) = ended.of[RING.model]
    assert rollout["state"] == "done", rollout
    met = [answer for answer in ended.traffic.answers(RING.model) if answer.version == rollout["candidate"]]
    first = min(answer.revision for answer in met)
    members = {f"u{number}" for number in range(RING.ring)}
    assert {answer.caller for answer in met if answer.revision == first} <= members
    assert {answer.caller for answer in met} > members


def in_turn(answers: list[Answered]) -> list[int]:
    """The versions that answered, by revision of the route, each run of equal ones once."""
    versions = [answer.version for answer in sorted(answers, key=lambda a: (a.revision, a.begun)) if answer.version]
    return [version for version, _ in itertools.groupby(versions)]


def test_ten_kills_of_the_registry_change_no_verdict_and_no_bit_of_the_evidence(
    platform: Platform, ended: Ended, note: Note
) -> None:
    running = begun(platform, ended, [LASTS, WORSE])
    began = time.monotonic()
    for _ in range(KILLS):
        before = ended.rollouts.get(LASTS.model, running[LASTS.model])["seq"]
        platform.kill("registry")
        further(ended, LASTS.model, running[LASTS.model], before)
    note("rollouts_ten_kills_s", round(time.monotonic() - began, 1))
    assert ended.rollouts.get(LASTS.model, running[LASTS.model])["state"] not in FINAL
    assert ends_of(ended, running) == {LASTS.model: "done", WORSE.model: "rolled_back"}


def test_a_bus_that_is_away_holds_a_rollout_up_and_decides_nothing(platform: Platform, ended: Ended) -> None:
    running = begun(platform, ended, [QUIET])
    with stopped(platform.pid("nats")):
        goes_on(ended.traffic, QUIET.model, int(AWAY_S * QUIET.per_second))
    assert ended.rollouts.get(QUIET.model, running[QUIET.model])["state"] not in FINAL
    further(ended, QUIET.model, running[QUIET.model], ended.rollouts.get(QUIET.model, running[QUIET.model])["seq"])
    platform.kill("nats")
    further(ended, QUIET.model, running[QUIET.model], ended.rollouts.get(QUIET.model, running[QUIET.model])["seq"])
    assert ends_of(ended, running, missing=MISSED) == {QUIET.model: "done"}


def test_a_killed_router_costs_what_was_in_flight_in_it_and_no_verdict(platform: Platform, ended: Ended) -> None:
    running = begun(platform, ended, [SPLIT])
    before = ended.rollouts.get(SPLIT.model, running[SPLIT.model])["seq"]
    killed_at = time.time()
    platform.kill("router-0")
    further(ended, SPLIT.model, running[SPLIT.model], before)
    assert ends_of(ended, running, lost_at=killed_at, missing=MISSED) == {SPLIT.model: "done"}


def begun(platform: Platform, ended: Ended, cases: Sequence[Case]) -> dict[str, str]:
    """Ids of their rollouts, each at its first step."""
    prepare(platform, cases)
    for case in cases:
        ended.traffic.add(case.stream)
    ids = {case.model: ended.rollouts.start(case.model, 2, POLICY | case.policy)["id"] for case in cases}
    for model, rollout in ids.items():
        ended.rollouts.wait(model, rollout, ("baking",), 60)
    return ids


def further(ended: Ended, model: str, rollout: str, seq: int, count: int = 3) -> None:
    """Wait for so many entries of the rollout's log after that number."""
    until(
        lambda: len(list(ended.rollouts.entries(model, rollout, seq))) >= count, 60, f"entries after {seq} of {model}"
    )


def ends_of(ended: Ended, running: dict[str, str], *, lost_at: float | None = None, missing: int = 0) -> dict[str, str]:
    """The state each ends in, replayed to the bit, with every request counted once and none lost."""
    states = {}
    for model, rollout in running.items():
        found = ended.rollouts.wait(model, rollout, tuple(FINAL), 120)
        states[model] = str(found["state"])
        goes_on(ended.traffic, model)
        ended.traffic.end(model)
        assert ended.rollouts.verdicts(model, rollout)["intact"]
        assert ended.rollouts.replay(model, rollout)["same"]
        lost = ended.traffic.lost(model)
        assert all(lost_at is not None and a.begun < lost_at + 0.2 and a.ended > lost_at for a in lost), lost
        told_twice, untold = miscounted(ended, model, found)
        assert told_twice <= len(lost), model
        assert untold <= missing, model
    return states


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
