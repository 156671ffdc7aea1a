"""A rollout as HTML for a notebook; it stands alone and runs nothing."""

import time
from collections.abc import Sequence
from xml.sax.saxutils import escape

from moorage_sdk.pictures.moves import plain
from moorage_sdk.pictures.rollout_words import (
    WIDE,
    clock,
    count,
    counts,
    heading,
    name_of,
    outlook,
    percent,
    sentence_of,
    stage_of,
    stages,
    state_of,
    took,
    unseen,
)
from moorage_sdk.rollouts_answers import Rollout, SafetyEvidence, SignalEvidence, Verdict

_VERDICTS = 8
_COLOURS = {"guarded": "#1a7f37", "done": "#1a7f37", "rolled_back": "#b42318", "hold": "#9a6700", "paused": "#9a6700"}
_PLAIN = "#0550ae"
_CELL = "padding:2px 14px 2px 0;text-align:left;background:none"


def html(found: Rollout, verdicts: Sequence[Verdict], now: float | None = None) -> str:
    """One `div`, well-formed XML too; `now` is seconds since 1970, the present if None."""
    at = time.time() if now is None else now
    colour = _COLOURS.get(found.state, _PLAIN)
    share = 1.0 if found.state == "done" else found.weight / 100
    told = [part for part in (plain(found.reason, WIDE), outlook(found)) if part]
    here = stage_of(found)
    names = [
        f"<b>{escape(name)}</b>" if number == here else escape(name) for number, name in enumerate(stages(found.policy))
    ]
    title = f'<b>{escape(heading(found))}</b> <span style="color:{colour}">{escape(state_of(found))}</span>'
    last = [f"{clock(verdict.at, at)} {escape(sentence_of(verdict))}" for verdict in verdicts[-_VERDICTS:]]
    parts = [
        '<div style="font:13px system-ui,sans-serif;max-width:800px">',
        f"<p>{title}, {escape(took(found, at))}</p>",
        *(f"<p>{escape(line)}</p>" for line in told),
        f"{_bar(share, colour, 480)} {100 * share:g} %",
        f'<p style="color:#57606a">{" &#8594; ".join(names)}</p>',
        *_evidence(found),
        *(f"<div>{line}</div>" for line in last),
        "</div>\n",
    ]
    return "\n".join(parts)


def _evidence(found: Rollout) -> list[str]:
    if not found.evidence.signals:
        return []
    names = ["", f"version {found.stable}", f"version {found.candidate}", f"evidence against version {found.candidate}"]
    rows = [
        _row("th", [escape(name) for name in names]),
        *(_row("td", _signal(found, one)) for one in found.evidence.signals),
    ]
    if found.evidence.safety and not found.is_final and found.state != "guarded":
        rows.append(_row("th", ["", "", "", "evidence that it is safe"]))
        rows += [_row("td", _safety(one)) for one in found.evidence.safety]
    return ['<table style="border-collapse:collapse;margin:8px 0">', *rows, "</table>"]


def _row(tag: str, cells: Sequence[str]) -> str:
    begin = f'<{tag} style="{_CELL}">'
    return f"<tr>{''.join(f'{begin}{cell}</{tag}>' for cell in cells)}</tr>"


def _signal(found: Rollout, one: SignalEvidence) -> list[str]:
    if told := unseen(found, one):
        return [escape(plain(one.name)), escape(told)]
    rates = [f"{percent(bad, of)} of {count(of)}" if of else "-" for bad, of in counts(one)]
    colour = "#b42318" if one.share >= 0.5 else "#9a6700"
    return [escape(name_of(one)), *rates, f"{_bar(one.share, colour, 200)} {100 * one.share:.0f} %"]


def _safety(one: SafetyEvidence) -> list[str]:
    needed = f"{count(one.needed_requests)} requests more" if one.needed_requests else ""
    return [escape(plain(one.name)), needed, "", f"{_bar(one.share, '#1a7f37', 200)} {100 * one.share:.0f} %"]


def _bar(share: float, colour: str, width: int) -> str:
    filled = round(min(1.0, max(0.0, share)) * width)
    outer = f"display:inline-block;width:{width}px;height:10px;background:#e1e4e8;vertical-align:middle"
    inner = f"display:block;width:{filled}px;height:10px;background:{colour}"
    return f'<span style="{outer}"><span style="{inner}"></span></span>'
