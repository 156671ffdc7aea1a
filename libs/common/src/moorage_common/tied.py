"""Commands that end with the process that started them, even when that one is killed with SIGKILL.

Linux only (prctl(2), PR_SET_PDEATHSIG): elsewhere the command runs untied. The kernel watches the *thread* that started
the child, so start tied commands from a thread that lives as long as the process.

This file is also the small program that ties itself and then becomes the command, which costs about 20 ms and needs
neither `preexec_fn` nor a package.
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence

_PR_SET_PDEATHSIG = 1


def tied(command: Sequence[str], *, on_death: int = signal.SIGKILL, uid: int | None = None) -> list[str]:
    """`command`, wrapped to receive `on_death` when the calling process ends, and to run as `uid` where given."""
    if sys.platform != "linux" and uid is None:
        return list(command)
    user = "" if uid is None else str(uid)
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(int(on_death)), user, *command]


def _become(parent: int, on_death: int, uid: str, command: list[str]) -> None:
    prctl = _prctl() if sys.platform == "linux" else None
    if uid:
        os.setgroups([])
        os.setgid(int(uid))
        os.setuid(int(uid))
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, on_death, 0, 0, 0)
        if os.getppid() != parent:
            sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606 - the caller's own command


def _prctl() -> Callable[..., int]:
    """Found before the user changes, who may not be able to read this Python's library."""
    import ctypes  # noqa: PLC0415 - only the small program needs it

    found: Callable[..., int] = ctypes.CDLL(None).prctl
    return found


if __name__ == "__main__":
    _become(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
