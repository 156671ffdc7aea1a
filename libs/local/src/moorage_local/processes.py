"""Children that stay up: started, watched, started again when they die, ended together."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from moorage_common.tied import tied
from moorage_local.options import StartFailed
from moorage_local.ownership import Belongings

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
STEADY_S = 10.0
"""A child that lived this long starts again without delay when it dies."""
EARLY_DEATHS = 3


@dataclass(frozen=True)
class Program:
    """A child to keep running.

    Attributes:
        ready_url: answers 200 once the child can serve; empty where others' readiness shows it.
        inherits: file descriptors to pass on.
        takes_along: children that cannot go on without this one and are started anew with it.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    ready_url: str = ""
    inherits: tuple[int, ...] = ()
    takes_along: tuple[str, ...] = ()


@dataclass
class Supervision:
    """Keeps programs running. Start children from the main thread only: they are tied to it (`moorage_common.tied`)."""

    logs: Path
    belongings: Belongings
    say: Callable[[str], None]
    is_starting: bool = True
    grace_s: float = 8.0
    _running: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)
    _tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _deaths: dict[str, int] = field(default_factory=dict)
    _ending: set[str] = field(default_factory=set)

    def start(self, program: Program) -> None:
        """Begin to keep `program` running."""
        self._tasks[program.name] = asyncio.create_task(self._keep(program), name=f"keep-{program.name}")

    def raise_if_hopeless(self) -> None:
        """Raises StartFailed, with the end of its log, for a child that keeps dying while the platform starts."""
        for name, deaths in self._deaths.items():
            if deaths >= EARLY_DEATHS:
                message = f"{name} ended {deaths} times while starting; {self.log(name)} ends with:\n{self._tail(name)}"
                raise StartFailed(message)

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    async def end(self, *names: str) -> None:
        """SIGTERM to these children at once, SIGKILL to what is left after `grace_s`; returns when all are gone."""
        self._ending.update(names)
        for name in names:
            if name in self._running:
                with contextlib.suppress(ProcessLookupError):
                    self._running[name].terminate()
        tasks = [self._tasks[name] for name in names if name in self._tasks]
        if not tasks:
            return
        _done, pending = await asyncio.wait(tasks, timeout=self.grace_s)
        for name in names:
            if name in self._running:
                self.say(f"{name} has not ended within {self.grace_s:g} s and is killed")
                self._kill(name)
        if pending:
            await asyncio.wait(pending, timeout=self.grace_s)

    async def _keep(self, program: Program) -> None:
        pause = FIRST_PAUSE_S
        while program.name not in self._ending:
            started = time.monotonic()
            process = await self._spawn(program)
            code = await process.wait()
            self._kill(program.name)
            del self._running[program.name]
            if program.name in self._ending:
                return
            if self.is_starting:
                self._deaths[program.name] = self._deaths.get(program.name, 0) + 1
            if time.monotonic() - started > STEADY_S:
                pause = FIRST_PAUSE_S
            along = f", and with it {', '.join(program.takes_along)}" if program.takes_along else ""
            self.say(f"{program.name} ended ({_how(code)}); it starts again{along} (log: {self.log(program.name)})")
            for other in program.takes_along:
                self._kill(other)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)

    async def _spawn(self, program: Program) -> asyncio.subprocess.Process:
        self.logs.mkdir(parents=True, exist_ok=True)
        with self.log(program.name).open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *tied(program.command),
                env=dict(program.environment),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=program.inherits,
                start_new_session=True,
            )
        self._running[program.name] = process
        self.belongings.add_process(program.name, process.pid)
        return process

    def _kill(self, name: str) -> None:
        """SIGKILL to the child's whole process group."""
        process = self._running.get(name)
        if process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)

    def _tail(self, name: str) -> str:
        return "\n".join(self.log(name).read_text(errors="replace").splitlines()[-15:])


def _how(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
