"""Children stay up, end together, and leave nothing behind."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from moorage_local.options import StartFailed
from moorage_local.ownership import Belongings
from moorage_local.processes import Program, Supervision

SLEEPER = "import signal, os, sys; print(os.getpid(), flush=True); signal.pause()"
STUBBORN = "import signal, os, time; signal.signal(15, signal.SIG_IGN); print(os.getpid(), flush=True); time.sleep(600)"


@dataclass
class Stage:
    supervision: Supervision
    said: list[str] = field(default_factory=list)

    def start(self, name: str, code: str, **options: tuple[str, ...]) -> None:
        self.supervision.start(Program(name, [sys.executable, "-c", code], dict(os.environ), **options))

    def pids(self, name: str) -> list[int]:
        """Of each start so far, oldest first."""
        path = self.supervision.log(name)
        return [int(line) for line in path.read_text().split()] if path.exists() else []


async def eventually(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - what is awaited happens in another process
            await asyncio.sleep(0.02)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    said: list[str] = []
    stage = Stage(Supervision(tmp_path / "logs", Belongings(tmp_path / "left.json"), said.append), said)
    yield stage
    names = [path.stem for path in (tmp_path / "logs").glob("*.log")]
    await stage.supervision.end(*names)
    stage.supervision.belongings.end_all()


async def test_a_killed_child_starts_again_and_it_is_said(stage: Stage) -> None:
    stage.start("one", SLEEPER)
    await eventually(lambda: len(stage.pids("one")) == 1)
    os.kill(stage.pids("one")[0], signal.SIGKILL)
    await eventually(lambda: len(stage.pids("one")) == 2)
    assert "one ended (signal SIGKILL)" in stage.said[0]


async def test_what_depends_on_a_dead_child_starts_again_with_it(stage: Stage) -> None:
    stage.start("below", SLEEPER, takes_along=("above",))
    stage.start("above", SLEEPER)
    await eventually(lambda: len(stage.pids("below")) == len(stage.pids("above")) == 1)
    os.kill(stage.pids("below")[0], signal.SIGKILL)
    await eventually(lambda: len(stage.pids("below")) == len(stage.pids("above")) == 2)


async def test_a_child_that_keeps_dying_at_start_is_given_up_with_its_log(stage: Stage) -> None:
    stage.start("broken", "raise SystemExit('the port is taken')")

    def is_given_up() -> bool:
        with contextlib.suppress(StartFailed):
            stage.supervision.raise_if_hopeless()
            return False
        return True

    await eventually(is_given_up)
    with pytest.raises(StartFailed, match="the port is taken"):
        stage.supervision.raise_if_hopeless()
    await stage.supervision.end("broken")
    stage.supervision.log("broken").write_text("")


async def test_ending_takes_even_a_child_that_ignores_being_asked(stage: Stage) -> None:
    stage.supervision.grace_s = 0.5
    stage.start("stubborn", STUBBORN)
    stage.start("polite", SLEEPER)
    await eventually(lambda: len(stage.pids("stubborn")) == len(stage.pids("polite")) == 1)
    await stage.supervision.end("stubborn", "polite")
    assert not psutil.pid_exists(stage.pids("stubborn")[0])
    assert not psutil.pid_exists(stage.pids("polite")[0])
    assert stage.said == ["stubborn has not ended within 0.5 s and is killed"]


async def test_a_childs_own_children_end_with_it(stage: Stage) -> None:
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEPER!r}])"
    stage.start("parent", code)
    await eventually(lambda: len(stage.pids("parent")) == 1)
    grandchild = psutil.Process(stage.pids("parent")[0])
    await stage.supervision.end("parent")
    await eventually(lambda: not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE)
