"""What a pool's process was doing when it ended, kept where it outlives a `kill -9`.

In the journal's folder: `at-work`, a memory-mapped file with a record a version, into which the begin and the end of a
predict each write a few bytes, and which the kernel keeps when the process is gone (not when the node is);
`crash`, into which the interpreter writes on a fatal signal; `verdicts`, what was concluded so far.
"""

import contextlib
import faulthandler
import json
import mmap
import os
import re
import struct
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import structlog

from moorage_runtime.pooled.verdicts import AtWork, Doing, End, Verdicts, judge

log = structlog.get_logger()

MOST_VERSIONS = 8192
_RECORD = struct.Struct("<B7xQ112s")
_STATE = struct.Struct("<B7xQ")
_DOING: dict[int, Doing] = {1: "load", 2: "predict"}
_LOAD, _PREDICT = 1, 2
_THREAD = re.compile(rb"^Current thread 0x([0-9a-f]+)", re.MULTILINE)


class Mark:
    """A version's record. The lock-free writes are one thread's at a time, as predicts are."""

    __slots__ = ("_at", "_map", "number")

    def __init__(self, mapped: mmap.mmap, number: int) -> None:
        self._map = mapped
        self._at = number * _RECORD.size
        self.number = number

    @contextlib.contextmanager
    def loading(self) -> Iterator[None]:
        """The version is being loaded by this thread."""
        _STATE.pack_into(self._map, self._at, _LOAD, threading.get_ident())
        try:
            yield
        finally:
            self.idle()

    def predicting(self) -> None:
        """The version is about to answer in this thread."""
        _STATE.pack_into(self._map, self._at, _PREDICT, threading.get_ident())

    def idle(self) -> None:
        """Nothing of it is under way."""
        self._map[self._at] = 0


class Journal:
    """The journal of one host, whose processes follow each other. Reading the last one's end is part of opening it."""

    def __init__(self, folder: Path, *, watch: bool = True) -> None:
        """Open, conclude from what the last process left, and begin anew.

        Args:
            watch: have the interpreter write fatal signals of this process down.
        """
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._lock = threading.Lock()
        self.verdicts = self._concluded()
        at_work = folder / "at-work"
        at_work.unlink(missing_ok=True)
        with at_work.open("w+b") as file:
            file.truncate(MOST_VERSIONS * _RECORD.size)  # sparse
            self._map = mmap.mmap(file.fileno(), 0)
        self._free = list(range(MOST_VERSIONS - 1, -1, -1))
        self._crash = (folder / "crash").open("wb")
        if watch:
            faulthandler.enable(self._crash, all_threads=True)  # names the thread, as it does not alone

    def close(self) -> None:
        """The process ends in order."""
        if faulthandler.is_enabled():
            faulthandler.disable()
        self._crash.close()
        (self._folder / "at-work").unlink(missing_ok=True)

    def enter(self, name: str) -> Mark:
        """A record for a version. IndexError beyond MOST_VERSIONS."""
        with self._lock:
            number = self._free.pop()
        _RECORD.pack_into(self._map, number * _RECORD.size, 0, 0, name.encode())
        return Mark(self._map, number)

    def leave(self, name: str, mark: Mark) -> None:
        """The version is let go, and so is what was held against it."""
        mark.idle()
        with self._lock:
            self._free.append(mark.number)
            if name in self.verdicts.failed:
                failed = {other: reason for other, reason in self.verdicts.failed.items() if other != name}
                self.verdicts = replace(self.verdicts, failed=failed)
                self._keep(self.verdicts)

    def fail(self, name: str, reason: str) -> None:
        """Do not load the version again."""
        with self._lock:
            failed = {**self.verdicts.failed, name: reason}
            self.verdicts = replace(self.verdicts, failed=failed, suspects=self.verdicts.suspects - {name})
            self._keep(self.verdicts)

    def trust(self, name: str) -> None:
        """A suspect has answered often enough."""
        with self._lock:
            self.verdicts = replace(self.verdicts, suspects=self.verdicts.suspects - {name})
            self._keep(self.verdicts)

    def _concluded(self) -> Verdicts:
        before = Verdicts({})
        with contextlib.suppress(OSError, ValueError, KeyError):
            told = json.loads((self._folder / "verdicts").read_bytes())
            before = Verdicts(told["failed"], frozenset(told["suspects"]), frozenset(told["loading"]))
        end = self._end()
        if not end.at_work:
            return before
        verdicts = judge(before, end)
        log.warning(
            "the last process of this pool ended at work",
            crash=end.crash,
            at_work=[f"{one.doing} {one.name}" for one in end.at_work],
            failed=sorted(verdicts.failed.keys() - before.failed.keys()),
            suspects=sorted(verdicts.suspects),
        )
        self._keep(verdicts)
        return verdicts

    def _end(self) -> End:
        """How the last process ended, by what it left."""
        at_work, dump = b"", b""
        with contextlib.suppress(OSError):
            at_work = (self._folder / "at-work").read_bytes()
        with contextlib.suppress(OSError):
            dump = (self._folder / "crash").read_bytes()
        thread = _THREAD.search(dump)
        return End(
            tuple(
                AtWork(name.rstrip(b"\0").decode(errors="replace"), _DOING[doing], number)
                for doing, number, name in _RECORD.iter_unpack(at_work[: len(at_work) // _RECORD.size * _RECORD.size])
                if doing in _DOING
            ),
            crash=dump.splitlines()[0].decode(errors="replace")[:200] if dump else "",
            thread=int(thread[1], 16) if thread else None,
        )

    def _keep(self, verdicts: Verdicts) -> None:
        part = self._folder / f"verdicts.{os.getpid()}"
        told = {"failed": verdicts.failed, "suspects": [*verdicts.suspects], "loading": [*verdicts.loading]}
        part.write_text(json.dumps(told))
        part.replace(self._folder / "verdicts")
