"""Validation in a process of its own: a file that crashes or hangs the library that reads it rejects its version and
takes no served model with it. (XGBoost aborts on an empty file and overflows its stack on deep JSON.)

Importing a format's library is most of what a validation costs, so one process waits ahead with the last format's.
"""

import contextlib
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import structlog

from moorage_common import logs
from moorage_common.contracts.desired import ValidationResult, ValidationRun
from moorage_common.contracts.model import Contract
from moorage_common.errors import MoorageError, Unavailable
from moorage_runtime.artifacts import ArtifactCache
from moorage_runtime.formats import warm
from moorage_runtime.validation import run_validation
from moorage_runtime.versions import Versions

log = structlog.get_logger()

TIMEOUT_S = 300.0
AHEAD_S = 10.0
_TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h


class Job(Contract):
    """Standard input of the process; its last line of standard output is a `ValidationResult`."""

    tenant: str
    cache_dir: str
    run: ValidationRun


class Validator:
    """Runs validations, each in a process of its own. Safe for threads."""

    def __init__(self, *, timeout_s: float = TIMEOUT_S, ahead_s: float | None = AHEAD_S) -> None:
        """`ahead_s`: how long after a run the process for the next one starts, out of the way of what follows a run;
        None: when it is needed."""
        self._timeout_s = timeout_s
        self._ahead_s = ahead_s
        self._lock = threading.Lock()
        self._waiting: tuple[str, subprocess.Popen[bytes]] | None = None
        self._timers: list[threading.Timer] = []
        self._closed = False

    def validate(self, job: Job) -> ValidationResult:
        """Run `job`. Blocks.

        Raises:
            Unavailable: the artifacts cannot be fetched now; nothing is known about the version.
        """
        model_format = job.run.load.format
        process = self._taken(model_format) or _started(model_format)
        try:
            return self._finished(process, job)
        finally:
            process.kill()
            process.wait()
            self._prepare(model_format)

    def close(self) -> None:
        """End the process that waits; none is started any more."""
        with self._lock:
            self._closed = True
            timers = self._timers
        for timer in timers:
            timer.cancel()
            timer.join()  # one that has gone off ends what it started
        self._taken("")

    def _taken(self, model_format: str) -> subprocess.Popen[bytes] | None:
        """The waiting process, if it has this format's library; one with another's is ended."""
        with self._lock:
            waiting, self._waiting = self._waiting, None
        if waiting is None:
            return None
        if waiting[0] == model_format and waiting[1].poll() is None:
            return waiting[1]
        waiting[1].kill()
        waiting[1].communicate()
        return None

    def _prepare(self, model_format: str) -> None:
        def start() -> None:
            process = _started(model_format)
            with self._lock:
                surplus, self._waiting = self._waiting, (model_format, process)
                if self._closed:
                    surplus, self._waiting = self._waiting, None
            if surplus is not None:
                surplus[1].kill()
                surplus[1].communicate()

        with self._lock:
            if self._closed or self._ahead_s is None:
                return
            for other in self._timers:
                other.cancel()
            timer = threading.Timer(self._ahead_s, start)
            timer.daemon = True
            self._timers = [*(other for other in self._timers if other.is_alive()), timer]
            timer.start()

    def _finished(self, process: subprocess.Popen[bytes], job: Job) -> ValidationResult:
        def rejected(reason: str) -> ValidationResult:
            run = job.run
            return ValidationResult(run_id=run.run_id, version=run.load.version, state="rejected", reason=reason)

        try:
            out, err = process.communicate(job.model_dump_json().encode(), self._timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return rejected(f"loading the model and answering its examples took longer than {self._timeout_s:g} s")
        for line in err.decode(errors="replace").splitlines()[-20:]:
            log.info("validation", line=line[:1000])
        lines = out.decode(errors="replace").splitlines() or [""]
        if process.returncode == 0:
            return ValidationResult.model_validate_json(lines[-1])
        if process.returncode == _TRY_AGAIN:
            raise Unavailable(lines[-1], code="artifact_unavailable")
        if process.returncode < 0:
            with contextlib.suppress(ValueError):
                name = signal.Signals(-process.returncode).name
                return rejected(f"the model crashes the process that loads it ({name}); save it again and push it")
        return rejected(f"validation ended with status {process.returncode}")


def _started(model_format: str) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", "moorage_runtime.apart", model_format]
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)  # noqa: S603 - our own interpreter and module


def main() -> None:
    """The process's side."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logs.configure("validation", level="warning")
    warm(sys.argv[1])
    text = sys.stdin.read()
    if not text:
        return  # the host that might have asked is gone
    job = Job.model_validate_json(text)
    cache = ArtifactCache(Path(job.cache_dir))
    try:
        result = run_validation(job.run, Versions(job.tenant, cache), cache)
    except MoorageError as error:
        sys.stdout.write(f"\n{error.message}\n")
        sys.exit(_TRY_AGAIN)
    sys.stdout.write(f"\n{result.model_dump_json()}\n")


if __name__ == "__main__":
    main()
