"""The process that validates: it imports a format's library once, and loads each version in a fork of itself.

`python -m moorage_runtime.forks FORMAT` reads a `Job` a line and answers an `Ended` a line. A fork has all that was
imported and nothing of another version; whatever a file does to it ends with it. The process itself never loads a
model, so it has no threads that a fork would miss.
"""

import ctypes
import os
import resource
import signal
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import IO, NoReturn

from moorage_common import logs
from moorage_common.contracts.desired import ValidationRun
from moorage_common.contracts.model import Contract
from moorage_common.errors import MoorageError
from moorage_runtime.artifacts import ArtifactCache
from moorage_runtime.formats import warm
from moorage_runtime.validation import run_validation
from moorage_runtime.versions import Versions

TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h
_PR_SET_PDEATHSIG = 1
_LINES_BYTES = 20_000


class Job(Contract):
    """A validation to run."""

    tenant: str
    cache_dir: str
    run: ValidationRun


class Ended(Contract):
    """How a fork ended.

    `status` is its exit code, or a signal's number less than 0; `out` a `ValidationResult`, or with TRY_AGAIN the
    reason; `lines` the last it printed.
    """

    status: int
    out: str
    lines: str


def main() -> None:
    """Serve until standard input ends."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logs.configure("validation", level="warning")
    warm(sys.argv[1])
    import_module("httpx")  # fetches artifacts, and takes as long to import as a small model to load
    for line in sys.stdin.buffer:
        sys.stdout.write(_forked(line).model_dump_json() + "\n")
        sys.stdout.flush()


def _forked(job: bytes) -> Ended:
    come, go = os.pipe()
    with tempfile.TemporaryFile() as printed:
        child = os.fork()
        if child == 0:
            os.close(come)
            _validate(job, go, printed)
        os.close(go)
        with os.fdopen(come, "rb") as result:
            out = result.read()
        _, status = os.waitpid(child, 0)
        size = printed.seek(0, os.SEEK_END)
        printed.seek(max(0, size - _LINES_BYTES))
        lines = printed.read()
    return Ended(status=os.waitstatus_to_exitcode(status), out=out.decode(), lines=lines.decode(errors="replace"))


def _validate(job_json: bytes, go: int, printed: IO[bytes]) -> NoReturn:
    """The fork's side."""
    status = 1
    try:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        for stream in (1, 2):
            os.dup2(printed.fileno(), stream)
        out, status = _validated(Job.model_validate_json(job_json))
        with os.fdopen(go, "wb") as result:
            result.write(out.encode())
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)  # nothing of the parent's is ended or flushed twice


def _validated(job: Job) -> tuple[str, int]:
    cache = ArtifactCache(Path(job.cache_dir))
    try:
        return run_validation(job.run, Versions(job.tenant, cache), cache).model_dump_json(), 0
    except MoorageError as error:
        return error.message, TRY_AGAIN


if __name__ == "__main__":
    main()
