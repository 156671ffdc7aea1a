"""A rollout followed from the command line: redrawn in a terminal, a line an event elsewhere."""

import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Literal

from rich.console import Console
from rich.live import Live
from rich.text import Text

from moorage_sdk.cli.context import say
from moorage_sdk.cli.output import print_line
from moorage_sdk.pictures.rollout_terminal import Frame, draw
from moorage_sdk.pictures.rollout_words import clock, lines, sentence_of, shape, stand, verdict_line
from moorage_sdk.rollouts import Look
from moorage_sdk.rollouts_answers import Rollout, Verdict

EXIT_CODES = {"done": 0, "guarded": 0, "rolled_back": 2, "aborted": 3}
GONE_ON = 130
"""Exit code of a watch that was interrupted; the rollout goes on."""

_WIDEST = 120


def shown(found: Rollout, verdicts: Sequence[Verdict], now: float) -> str:
    """The picture on a terminal, plain lines elsewhere."""
    if not sys.stdout.isatty():
        return "\n".join(lines(found, verdicts, now)) + "\n"
    console = Console()
    frame = Frame(min(_WIDEST, console.width), max(24, console.height), colour=_has_colours())
    return draw(found, verdicts, now, frame)


def watch(looks: Iterable[Look], until: Literal["promoted", "done"]) -> int:
    """Show the rollout until it has ended; the exit code says how."""
    try:
        return _draw(looks, until) if sys.stdout.isatty() else _tell(looks, until)
    except KeyboardInterrupt:
        say("\nthe rollout goes on")
        return GONE_ON


def _ends(look: Look, until: str) -> bool:
    return look.rollout.is_final or (until == "promoted" and look.rollout.is_promoted)


def _draw(looks: Iterable[Look], until: str) -> int:
    console = Console(highlight=False, markup=False)
    colour = _has_colours()
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        for look in looks:
            frame = Frame(min(_WIDEST, console.width), console.height - 1, colour)
            picture = draw(look.rollout, look.verdicts, time.time(), frame, look.problem)
            live.update(Text.from_ansi(picture), refresh=True)
            if _ends(look, until):
                return EXIT_CODES[look.rollout.state]
    return 1


def _tell(looks: Iterable[Look], until: str) -> int:
    told, problem, before = 0, "", ""
    for look in looks:
        now = time.time()
        for verdict in look.verdicts[told:]:
            print_line(verdict_line(verdict, now))
        told = len(look.verdicts)
        if look.problem != problem:
            problem = look.problem
            say(f"the registry does not answer: {problem}" if problem else "the registry answers again")
        stands = stand(look.rollout, sentence_of(look.verdicts[-1]) if look.verdicts else "")
        if (kept := f"{look.rollout.weight} {shape(stands)}") != before:
            before = kept
            print_line(f"{clock(now, now)} {stands}")
        sys.stdout.flush()
        if _ends(look, until):
            return EXIT_CODES[look.rollout.state]
    return 1


def _has_colours() -> bool:
    return not os.environ.get("NO_COLOR")
