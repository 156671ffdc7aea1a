"""The write-ahead log of usage: a directory of segments, one chunk each.

Lines are appended to the open segment and synced. Sealing a segment fixes its content, and only sealed segments are
published, so a chunk id always names the same rows. While the bus is away the open segment grows and is rewritten
as its sums when it has become long, so the disk holds a row a (tenant, model, version, key, hour) and little more.

Routers may share the directory: a segment belongs to the process that holds its lock, which ends with the process. So
the next one to start ships what a killed one left, under the name it had, and nobody takes what another still writes.
"""

import contextlib
import fcntl
import os
import re
import secrets
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import structlog

from moorage_common.contracts.usage import UsageChunk, UsageRow

log = structlog.get_logger()

Key = tuple[str, str, int, str, int]
"""(tenant, model, version, kid, hour)."""
Sums = dict[Key, list[int]]
"""Key -> [requests, errors, rows, bytes_in, bytes_out, busy_us]."""

COMPACT_BYTES = 1024 * 1024
MOST_ROWS = 4000
"""A chunk of this many rows stays below the megabyte that a message may have."""
_NAME = re.compile(r"^(?P<router>[A-Za-z0-9_-]+)\.(?P<boot>[0-9a-f]+)-(?P<n>\d+)\.wal$")


def add(into: Sums, sums: Sums) -> None:
    """Add `sums` to `into`."""
    for key, row in sums.items():
        held = into.get(key)
        if held is None:
            into[key] = list(row)
        else:
            for place, number in enumerate(row):
                held[place] += number


@dataclass
class Segment:
    """One chunk on disk. `file` holds the lock until the chunk is shipped."""

    path: Path
    router: str
    boot: str
    n: int
    file: int
    sums: Sums = field(default_factory=dict)

    def chunk(self) -> UsageChunk:
        rows = [
            UsageRow(
                tenant=tenant, model=model, version=version, kid=kid, hour=hour, requests=requests, errors=errors,
                rows=count, bytes_in=bytes_in, bytes_out=bytes_out, busy_us=busy_us,
            )
            for (tenant, model, version, kid, hour), (requests, errors, count, bytes_in, bytes_out, busy_us) in
            sorted(self.sums.items())
        ]  # fmt: skip
        return UsageChunk(router=self.router, boot=self.boot, n=self.n, rows=rows)


def encoded(sums: Sums) -> bytes:
    """One line: CRC-32 in hex, a space, JSON."""
    text = orjson.dumps([[*key, *row] for key, row in sums.items()])
    return b"%08x %b\n" % (zlib.crc32(text), text)


def decoded(line: bytes) -> Sums | None:
    """The sums of a line; None when it was torn."""
    mark, _, text = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or mark != b"%08x" % zlib.crc32(text):
        return None
    sums: Sums = {}
    for tenant, model, version, kid, hour, *row in orjson.loads(text):
        add(sums, {(tenant, model, version, kid, hour): row})
    return sums


def sums_in(path: Path) -> Sums:
    """What a segment's file holds, up to its first torn line."""
    held: Sums = {}
    for line in path.read_bytes().splitlines(keepends=True):
        sums = decoded(line)
        if sums is None:
            log.warning("torn line in the usage log ignored", segment=path.name)
            break
        add(held, sums)
    return held


def _claimed(path: Path) -> int | None:
    """The file of a segment, opened and locked; None when another process owns it or it is gone."""
    try:
        file = os.open(path, os.O_RDWR | os.O_APPEND)
    except FileNotFoundError:
        return None
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file).st_ino == path.stat().st_ino:  # its owner may have replaced or shipped it meanwhile
            return file
    os.close(file)
    return None


class UsageLog:
    """The segments of this boot and of earlier ones. Blocking: call it in a thread, one call at a time."""

    def __init__(self, directory: Path, router: str) -> None:
        """Takes over what ended processes left; their segments count as sealed."""
        self._directory = directory
        self._router = router
        self.boot = f"{int(time.time()):x}{secrets.token_hex(4)}"
        self._next = 0
        self._open: Segment | None = None
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._sealed = self._read()

    def _read(self) -> list[Segment]:
        segments = []
        for path in self._directory.iterdir():
            match = _NAME.match(path.name)
            file = _claimed(path) if match is not None else None
            if match is None or file is None:
                continue
            segment = Segment(path, match["router"], match["boot"], int(match["n"]), file)
            add(segment.sums, sums_in(path))
            segments.append(segment)
        return sorted(segments, key=lambda segment: (segment.boot, segment.n))

    @property
    def unshipped(self) -> int:
        """Requests, answered and failed, that were not acknowledged yet."""
        segments = [*self._sealed, *([self._open] if self._open is not None else [])]
        return sum(row[0] + row[1] for segment in segments for row in list(segment.sums.values()))

    def append(self, sums: Sums) -> None:
        """Write `sums` to the open segment and sync. Raises OSError, and then nothing of them counts."""
        if self._open is not None and len(self._open.sums) + len(sums) > MOST_ROWS:
            self.seal()
        if self._open is None:
            self._open = self._begun()
        file = self._open.file
        end = os.lseek(file, 0, os.SEEK_END)
        line = encoded(sums)
        try:
            if os.write(file, line) != len(line):
                raise OSError("the disk is full")
            os.fdatasync(file)
        except OSError:
            os.ftruncate(file, end)
            raise
        add(self._open.sums, sums)
        if end + len(line) > max(COMPACT_BYTES, 2 * len(encoded(self._open.sums))):
            self._compact(self._open)

    def _begun(self) -> Segment:
        """A new segment, locked. Raises OSError, also when a starting process took the new file for a left one."""
        path = self._directory / f"{self._router}.{self.boot}-{self._next:08d}.wal"
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._next += 1
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            raise
        return Segment(path, self._router, self.boot, self._next - 1, file)

    def _compact(self, segment: Segment) -> None:
        """Rewrite the open segment as one line."""
        fresh = segment.path.with_suffix(".tmp")
        file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX)
        os.write(file, encoded(segment.sums))
        os.fsync(file)
        fresh.replace(segment.path)
        os.close(segment.file)
        segment.file = file

    def seal(self) -> Segment | None:
        """End the open segment, whose content is then final. None when there is none."""
        segment, self._open = self._open, None
        if segment is not None:
            self._sealed.append(segment)
        return segment

    def sealed(self) -> list[Segment]:
        """Oldest first."""
        return list(self._sealed)

    def shipped(self, segment: Segment) -> None:
        """The bus has it: forget it."""
        segment.path.unlink(missing_ok=True)
        os.close(segment.file)
        self._sealed = [held for held in self._sealed if held is not segment]

    def close(self) -> None:
        """Leave what was not shipped to the next process."""
        self.seal()
        for segment in self._sealed:
            os.close(segment.file)
        self._sealed = []
