"""Moving what comes on one socket to another within the kernel: splice(2), through a pipe. Linux only.

A body of a megabyte that only passes through is neither copied into this process nor out of it.
"""

import contextlib
import fcntl
import os
import sys
from collections.abc import Awaitable, Callable

AVAILABLE = sys.platform == "linux" and hasattr(os, "splice")
PIPE_BYTES = 1024 * 1024
_F_SETPIPE_SZ = 1031
_FLAGS = 1 | 2  # SPLICE_F_MOVE, SPLICE_F_NONBLOCK
_SPARE = 8

Ready = Callable[[int, bool], Awaitable[None]]
"""Wait until a descriptor can be read, or (True) written."""

_spare: list[tuple[int, int]] = []
"""Empty pipes, kept because making one that large takes longer than filling it."""


async def splice(source: int, target: int, count: int, ready: Ready) -> None:
    """Move `count` bytes between two sockets that do not block.

    Raises:
        EOFError: the source ended before, or was reset.
        OSError: the target is closed.
    """
    pipe = _spare.pop() if _spare else _pipe()
    left, held = count, 0
    try:
        while left or held:
            if left and (taken := _taken(source, pipe[1], min(left, PIPE_BYTES - held))) is not None:
                if taken == 0:
                    raise EOFError
                left -= taken
                held += taken
            elif not held:
                await ready(source, False)
                continue
            given = _move(pipe[0], target, held)
            if given is None:
                await ready(target, True)
            else:
                held -= given
    finally:
        if not held and len(_spare) < _SPARE:
            _spare.append(pipe)
        else:
            for end in pipe:
                os.close(end)


def _pipe() -> tuple[int, int]:
    ends = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    with contextlib.suppress(OSError):  # more than this user may have: a smaller one does as well
        fcntl.fcntl(ends[1], _F_SETPIPE_SZ, PIPE_BYTES)
    return ends


def _taken(source: int, pipe: int, count: int) -> int | None:
    try:
        return _move(source, pipe, count)
    except OSError:
        return 0


def _move(source: int, target: int, count: int) -> int | None:
    """Bytes moved, 0 at the source's end; None when it would block."""
    if count <= 0:
        return None
    try:
        return os.splice(source, target, count, flags=_FLAGS)
    except BlockingIOError:
        return None
