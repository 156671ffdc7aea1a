"""Who brought a pool's process down, told from what was under way."""

from moorage_runtime.pooled.verdicts import AtWork, End, Verdicts, judge

NOTHING = Verdicts({})
SEGFAULT = "Fatal Python error: Segmentation fault"


def at_work(*names: str) -> tuple[AtWork, ...]:
    return tuple(AtWork(name, "predict", thread) for thread, name in enumerate(names, start=1))


def test_a_crash_in_a_thread_fails_the_version_at_work_in_it_and_no_other() -> None:
    found = judge(NOTHING, End(at_work("a/1", "b/1", "c/1"), SEGFAULT, thread=2))
    assert set(found.failed) == {"b/1"}
    assert "Segmentation fault" in found.failed["b/1"]
    assert not found.suspects


def test_a_crash_with_one_version_at_work_fails_it_whatever_thread_it_shows_in() -> None:
    assert set(judge(NOTHING, End(at_work("a/1"), SEGFAULT, thread=99)).failed) == {"a/1"}
    assert set(judge(NOTHING, End(at_work("a/1"), SEGFAULT)).failed) == {"a/1"}


def test_a_crash_of_no_known_thread_makes_suspects_and_the_next_one_names_the_culprit() -> None:
    first = judge(NOTHING, End(at_work("a/1", "b/1", "c/1"), SEGFAULT))
    assert not first.failed
    assert first.suspects == {"a/1", "b/1", "c/1"}
    second = judge(first, End(at_work("b/1", "d/1"), SEGFAULT))
    assert set(second.failed) == {"b/1"}
    assert not second.suspects


def test_suspects_are_narrowed_with_every_end() -> None:
    names = [f"m{number}/1" for number in range(16)]
    verdicts, ends = judge(NOTHING, End(at_work(*names), SEGFAULT)), 1
    while not verdicts.failed:
        half = sorted(verdicts.suspects)[: max(1, len(verdicts.suspects) // 2)]
        verdicts, ends = judge(verdicts, End(at_work(*half), SEGFAULT)), ends + 1
    assert set(verdicts.failed) == {min(names)}
    assert ends == 5


def test_a_process_killed_from_outside_fails_nobody_the_first_time() -> None:
    first = judge(NOTHING, End(at_work("a/1")))
    assert not first.failed
    assert first.suspects == {"a/1"}
    assert not judge(first, End(at_work("b/1"))).failed, "another at work: it was not the first"
    assert set(judge(first, End(at_work("a/1"))).failed) == {"a/1"}


def test_what_failed_before_stays_failed() -> None:
    held = Verdicts({"old/1": "why"})
    assert judge(held, End(at_work("a/1"), SEGFAULT)).failed["old/1"] == "why"
