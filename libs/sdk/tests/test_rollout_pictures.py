"""Rollouts in words and pictures: the same data gives the same text, and no name or sentence escapes from it."""

import re
import time
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage_sdk.cli import rollout_watch
from moorage_sdk.pictures import rollout_words
from moorage_sdk.pictures.rollout_html import html
from moorage_sdk.pictures.rollout_terminal import Frame, draw
from moorage_sdk.rollouts import Look
from moorage_sdk.rollouts_answers import Rollout, Verdict

NOW = time.mktime((2026, 11, 24, 13, 20, 0, 0, 0, -1))

SIGNALS: list[dict[str, Any]] = [
    {"name": "errors", "log_e": 1.38, "threshold": 5.52, "stable_n": 11800, "stable_bad": 120, "candidate_n": 3910,
     "candidate_bad": 43},
    {"name": "latency", "log_e": -2.0, "threshold": 5.81, "stable_n": 11800, "stable_bad": 590, "candidate_n": 3910,
     "candidate_bad": 205, "detail": {"quantiles": [
         {"quantile": 0.5, "log_e": -3.0, "stable_slow": 5900, "candidate_slow": 1950},
         {"quantile": 0.95, "log_e": -1.0, "stable_slow": 590, "candidate_slow": 205}]}},
    {"name": "quality", "log_e": 0.0, "threshold": 5.99},
    {"name": "drift", "state": "learning", "log_e": 0.0, "threshold": 7.6},
]  # fmt: skip
SAFETY = [
    {"name": "errors", "log_e": 3.0, "threshold": 4.0, "needed_requests": 820},
    {"name": "latency", "log_e": 4.0, "threshold": 4.0},
]
TOLD: dict[str, Any] = {
    "id": "01J", "model": "fraud", "stable": 2, "candidate": 3, "state": "baking", "step": 1, "steps": 3, "weight": 25,
    "started_at": NOW - 252, "step_began_at": NOW - 64, "needed": 820, "eta_s": 110,
    "reason": "310 requests at 25 % do not yet show that its errors are within the margin: about 820 more are needed",
    "evidence": {"signals": SIGNALS, "safety": SAFETY, "baseline_requests": 2000},
}  # fmt: skip
VERDICTS = [
    Verdict(number=1, at=NOW - 252, kind="started", sentence="Version 3 is to take the place of version 2."),
    Verdict(
        number=2, at=NOW - 64, kind="advanced",
        sentence="Version 3 gets 25 %: 0 of 310 requests were bad, so it is not worse by the margin of 2 pp.",
    ),
]  # fmt: skip


def rollout(**more: Any) -> Rollout:
    return Rollout.model_validate({**TOLD, **more})


def test_a_rollout_is_drawn_with_its_weight_its_evidence_and_why() -> None:
    assert draw(rollout(), VERDICTS, NOW) == (
        "fraud: version 3 in the place of 2                           at 25 %, 4 min 12 s\n"
        "310 requests at 25 % do not yet show that its errors are within the margin:\n"
        "about 820 more are needed\n"
        "goes on in about 1 min 50 s\n"
        "\n"
        "version 3   ███████████████·············································    25 %\n"
        "            ✓ 5 %   ● 25 % for 1 min 4 s   ○ 50 %   ○ guard 30 min\n"
        "\n"
        "             version 2         version 3        evidence against version 3\n"
        "errors       1.02 % of 11,800  1.10 % of 3,910  ██████··················    25 %\n"
        "latency p95  5.00 % of 11,800  5.24 % of 3,910  ························     0 %\n"
        "quality     no label has come back yet\n"
        "drift       learns what is usual of version 2\n"
        "\n"
        "                                                evidence that it is safe\n"
        "errors      820 requests more                   ██████████████████······    75 %\n"
        "latency                                         ████████████████████████   100 %\n"
        "\n"
        "13:15:48  Version 3 is to take the place of version 2.\n"
        "13:18:56  Version 3 gets 25 %: 0 of 310 requests were bad, so it is not worse by\n"
        "          the margin of 2 pp.\n"
    )


def test_answers_of_both_versions_are_compared_pair_by_pair() -> None:
    detail = {"pairs": 375, "candidate_alone_worse": 15, "stable_alone_worse": 3}
    signals = [{"name": "quality", "log_e": 3.0, "threshold": 6.0, "detail": detail}]
    found = rollout(evidence={"signals": signals})
    assert "quality      0.80 % of 375     4.00 % of 375    ████████████·" in draw(found, (), NOW)
    told = "quality: version 2 0.80 % bad of 375, version 3 4.00 % bad of 375; 50 % of the evidence that it acts on"
    assert told in rollout_words.lines(found, (), NOW)


def test_a_rollback_says_why_and_claims_no_safety() -> None:
    reason = "errors: 41 of 812 requests of version 3 were bad (5.0 %), of version 2 120 of 11,800 (1.0 %)"
    drawn = draw(rollout(state="rolled_back", weight=0, reason=reason, finished_at=NOW - 3), VERDICTS, NOW)
    assert "rolled back, 4 min 9 s\nerrors: 41 of 812 requests of version 3" in drawn
    assert "✓ 5 %   ✗ 25 %   ○ 50 %" in drawn
    assert "evidence that it is safe" not in drawn
    assert "goes on in" not in drawn


def test_before_any_traffic_the_baseline_is_told() -> None:
    drawn = draw(rollout(state="pending", step=-1, weight=0, needed=None, eta_s=None), (), NOW)
    assert "first 2,000 requests of version 2 are counted, 2,000 so far\n" in drawn
    assert "○ 5 %   ○ 25 %   ○ 50 %   ○ guard 30 min\n" in drawn


def test_a_registry_that_is_away_is_said_beside_what_it_last_told() -> None:
    drawn = draw(rollout(), VERDICTS, NOW, problem="connection refused")
    assert "the registry does not answer, this is what it last said: connection refused\n" in drawn
    assert "at 25 %" in drawn


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@st.composite
def rollouts(draw_: st.DrawFn) -> Rollout:
    steps = draw_(st.lists(st.floats(0.5, 99.5), min_size=1, max_size=32).map(sorted))
    policy = {"steps": [{"weight": round(weight, 1)} for weight in steps]}
    return rollout(
        policy=policy,
        steps=len(steps),
        step=draw_(st.integers(-1, len(steps))),
        state=draw_(st.sampled_from(["pending", "baking", "hold", "paused", "guarded", "done", "rolled_back"])),
        weight=draw_(st.floats(0, 100)),
        reason=draw_(st.text(max_size=300)),
        candidate=draw_(st.integers(1, 10**6)),
        evidence={"signals": SIGNALS * draw_(st.integers(0, 2)), "safety": SAFETY},
    )


@given(rollouts(), st.integers(60, 160), st.integers(24, 60), st.integers(0, 30))
def test_the_picture_fits_and_colours_change_no_letter(found: Rollout, width: int, height: int, told: int) -> None:
    verdicts = VERDICTS * told
    drawn = draw(found, verdicts, NOW, Frame(width, height))
    assert [line for line in drawn.splitlines() if len(line) > width] == []
    assert len(drawn.splitlines()) <= height
    assert plain(draw(found, verdicts, NOW, Frame(width, height, colour=True))) == drawn


HOSTILE = "\x1b[2J</b><script>alert(1)</script>&\"'\u202e\x00"


@given(st.text(min_size=1, max_size=80))
def test_nothing_that_is_told_reaches_terminal_or_notebook_as_an_order(text: str) -> None:
    for said in (text, HOSTILE):
        signals = [{**SIGNALS[0], "name": said}]
        found = rollout(model=said, reason=said, evidence={"signals": signals, "safety": [{"name": said}]})
        verdicts = [Verdict(number=1, at=NOW, kind="held", sentence=said)]
        for shown in (draw(found, verdicts, NOW), "\n".join(rollout_words.lines(found, verdicts, NOW))):
            assert all(letter.isprintable() for letter in shown.replace("\n", ""))
        page = html(found, verdicts, NOW)
        assert "<script" not in page
        ElementTree.fromstring(page)


def test_a_notebook_shows_the_same() -> None:
    text = "".join(ElementTree.fromstring(html(rollout(), VERDICTS, NOW)).itertext())
    for told in ("version 3 in the place of 2", "at 25 %", "1.10 % of 3,910", "820 requests more"):
        assert told in text


def test_a_newer_registrys_policy_is_read() -> None:
    policy = {"steps": [{"weight": 5, "later": 1}], "errors": {"on": False, "new": 2}, "unheard": {}}
    found = rollout(policy=policy).policy
    assert (found.errors.on, found.steps[0].weight) == (False, 5)


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (59.6, "1 min"), (252, "4 min 12 s"), (7500, "2 h 5 min"), (273_600, "3 d 4 h")]
)
def test_spans_are_told_in_two_units(seconds: float, said: str) -> None:
    assert rollout_words.span(seconds) == said


@pytest.mark.parametrize(
    ("part", "whole", "said"),
    [(0, 9, "0 %"), (9, 9, "100 %"), (1, 0, "-"), (15, 100, "15.0 %"), (1, 100, "1.00 %"), (1, 20_000, "0.005 %")],
)
def test_shares_keep_two_digits(part: float, whole: float, said: str) -> None:
    assert rollout_words.percent(part, whole) == said


def looks(*found: Rollout) -> Iterator[Look]:
    for number, one in enumerate(found):
        yield Look(one, tuple(VERDICTS[: number + 1]), NOW)


@pytest.mark.parametrize(("state", "code"), [("guarded", 0), ("done", 0), ("rolled_back", 2), ("aborted", 3)])
def test_a_watch_ends_with_how_the_rollout_did(state: str, code: int) -> None:
    assert rollout_watch.watch(looks(rollout(), rollout(state=state)), "promoted") == code


def test_a_watch_through_the_guard_sees_a_rollback_in_it() -> None:
    assert rollout_watch.watch(looks(rollout(state="guarded"), rollout(state="rolled_back")), "done") == 2


def test_without_a_terminal_each_event_is_a_line_once(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = rollout(weight=5.0, reason="waits for 9 requests"), rollout(reason=VERDICTS[1].sentence)
    fewer = first.model_copy(update={"reason": "waits for 8 requests"})
    seen = [
        *(Look(one, tuple(VERDICTS[:1]), NOW) for one in (first, fewer)),
        Look(second, tuple(VERDICTS), NOW),
        Look(second, tuple(VERDICTS), NOW, "connection refused"),
        Look(rollout(state="guarded", reason=""), tuple(VERDICTS), NOW),
    ]
    rollout_watch.watch(iter(seen), "promoted")
    shown = capsys.readouterr()
    lines = [line.split(" ", maxsplit=1)[1] for line in shown.out.splitlines()]
    assert lines.count(VERDICTS[0].sentence) == 1
    assert [line for line in lines if line.startswith("fraud: ")] == [
        "fraud: version 3 in the place of 2: at 5 %: waits for 9 requests",
        "fraud: version 3 in the place of 2: at 25 %",
        "fraud: version 3 in the place of 2: promoted, guarded",
    ]
    assert shown.err.splitlines() == [
        "the registry does not answer: connection refused",
        "the registry answers again",
    ]


def test_an_interrupted_watch_leaves_the_rollout_alone(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> Iterator[Look]:
        yield from looks(rollout())
        raise KeyboardInterrupt

    assert rollout_watch.watch(interrupted(), "promoted") == rollout_watch.GONE_ON
    assert "the rollout goes on" in capsys.readouterr().err
