"""Which version brought its process down, judged from what was under way. Pure.

A crash inside a native library names its thread (faulthandler), and so the version at work in it. Where it does not
(the process was killed from outside, or by a library that ends it), all versions at work are suspects: from then on
they take turns, so that the next such end finds one of them at work and no more. An end while others were at work
makes those the suspects.
"""

from dataclasses import dataclass
from typing import Literal

Doing = Literal["load", "predict"]


@dataclass(frozen=True)
class AtWork:
    """A version under way when the process ended, in the thread of that number."""

    name: str
    doing: Doing
    thread: int


@dataclass(frozen=True)
class End:
    """How a process ended.

    Attributes:
        at_work: what was under way.
        crash: the first line of the interpreter's dump, as `Fatal Python error: Segmentation fault`; empty where the
            process had no time to write one: it was killed, or a library ended it.
        thread: in which it crashed, where the dump names it.
    """

    at_work: tuple[AtWork, ...]
    crash: str = ""
    thread: int | None = None


@dataclass(frozen=True)
class Verdicts:
    """What is known of versions over the ends of a host's processes.

    Attributes:
        failed: version -> why it is not loaded again.
        suspects: each may have brought the last process down; they take turns. One alone at work at the next end fails.
        loading: the suspects that were being loaded, which a process apart can try.
    """

    failed: dict[str, str]
    suspects: frozenset[str] = frozenset()
    loading: frozenset[str] = frozenset()


def judge(before: Verdicts, end: End) -> Verdicts:
    """What the end of a process adds to `before`."""
    by_thread = [one for one in end.at_work if one.thread == end.thread]
    if end.crash and len(by_thread) == 1:
        return _failed(before, by_thread[0], end)
    again = [one for one in end.at_work if one.name in before.suspects]
    suspected = again or list(end.at_work)
    names = frozenset(one.name for one in suspected)
    loading = frozenset(one.name for one in suspected if one.doing == "load")
    if len(names) != 1:
        return Verdicts(before.failed, names, loading)
    one = suspected[0]
    if end.crash or again:
        return _failed(before, one, end)
    return Verdicts(before.failed, names, loading)


def _failed(before: Verdicts, one: AtWork, end: End) -> Verdicts:
    doing = "loading it" if one.doing == "load" else "answering with it"
    how = end.crash.removeprefix("Fatal Python error: ") or "the process was killed, for its memory perhaps"
    reason = f"{doing} brought the pool's process down ({how}); push a repaired version, or deploy it dedicated"
    return Verdicts({**before.failed, one.name: reason})
