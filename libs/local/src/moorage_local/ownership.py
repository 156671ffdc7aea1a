"""One launcher a state directory, and an end to what a killed one left behind."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from moorage_local.options import StartFailed
from moorage_local.private_files import read_private, write_private

_LOCK = "launcher.lock"
_LEFT = "processes.json"


@dataclass
class Belongings:
    """What runs for a state directory, on disk, so that the next launcher can end it if this one cannot."""

    path: Path
    processes: dict[str, tuple[int, float]] = field(default_factory=dict)
    directories: list[str] = field(default_factory=list)

    def add_process(self, name: str, pid: int) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            self.processes[name] = (pid, psutil.Process(pid).create_time())
            self._save()

    def add_directory(self, directory: Path) -> None:
        self.directories.append(str(directory))
        self._save()

    def end_all(self) -> None:
        """Kill the processes that are still the ones noted, with their groups; remove the directories."""
        for pid, created in self.processes.values():
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                if abs(psutil.Process(pid).create_time() - created) < 0.1:
                    os.killpg(pid, 9)
        for directory in self.directories:
            shutil.rmtree(directory, ignore_errors=True)
        self.path.unlink(missing_ok=True)

    def _save(self) -> None:
        write_private(self.path, {"processes": self.processes, "directories": self.directories})


@contextlib.contextmanager
def claim(state: Path) -> Iterator[Belongings]:
    """Own `state` while the block runs, after ending what a killed launcher left there.

    Raises:
        StartFailed: another launcher owns it; names its process.
    """
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (state / _LOCK).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            pid = lock.read().strip() or "?"
            message = (
                f"a platform already runs on {state} (process {pid}): end it with Ctrl-C or `kill {pid}`, "
                f"or start another with --state DIR --port 0"
            )
            raise StartFailed(message) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        left = read_private(state / _LEFT)
        processes = {name: (int(pid), float(at)) for name, (pid, at) in left.get("processes", {}).items()}
        Belongings(state / _LEFT, processes, left.get("directories", [])).end_all()
        mine = Belongings(state / _LEFT)
        try:
            yield mine
        finally:
            mine.end_all()
