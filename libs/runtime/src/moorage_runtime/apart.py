"""Validation in a process of its own: a file that crashes or hangs the library that reads it rejects its version and
takes no served model with it. (XGBoost aborts on an empty file and overflows its stack on deep JSON.)

Importing a format's library is most of what a validation costs, so the processes that did it stay (see `forks`).
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import OrderedDict

import structlog

from moorage_common.contracts.desired import ValidationResult
from moorage_common.contracts.tensors import DATA_FORMATS
from moorage_common.errors import Unavailable
from moorage_runtime.forks import TRY_AGAIN, Ended, Job
from moorage_runtime.interpreter import one_thread

__all__ = ["Job", "Validator"]

log = structlog.get_logger()

TIMEOUT_S = 300.0
KEPT = 2
"""Processes that stay, one a format: those of the last formats."""
_READ_BYTES = 64 * 1024


class Validator:
    """Runs validations, each in a process of its own. Safe for threads."""

    def __init__(self, *, timeout_s: float = TIMEOUT_S, kept: int = KEPT) -> None:
        """`kept`: how many processes stay between runs."""
        self._timeout_s = timeout_s
        self._kept = kept
        self._lock = threading.Lock()
        self._idle: OrderedDict[str, subprocess.Popen[bytes]] = OrderedDict()
        self._closed = False

    def validate(self, job: Job) -> ValidationResult:
        """Run `job`. Blocks.

        Raises:
            Unavailable: the artifacts cannot be fetched now; nothing is known about the version.
        """
        model_format = job.run.load.format
        with self._lock:
            process = self._idle.pop(model_format, None)
        if process is None or process.poll() is not None:
            process = _started(model_format)
        ended = None
        try:
            ended = _answer(process, job, time.monotonic() + self._timeout_s)
        finally:
            self._keep(model_format, process, usable=ended is not None and model_format in DATA_FORMATS)
        return self._result(job, ended)

    def close(self) -> None:
        """End the processes that wait; none stays any more."""
        with self._lock:
            self._closed = True
            idle, self._idle = list(self._idle.values()), OrderedDict()
        for process in idle:
            _end(process)

    def _keep(self, model_format: str, process: subprocess.Popen[bytes], *, usable: bool) -> None:
        """Keep a process for the next run, in place of the longest unused one; code has one of its own each time."""
        surplus = [process]
        with self._lock:
            if usable and not self._closed and model_format not in self._idle:
                self._idle[model_format] = process
                surplus = [self._idle.popitem(last=False)[1]] if len(self._idle) > self._kept else []
        for one in surplus:
            _end(one)

    def _result(self, job: Job, ended: Ended | None) -> ValidationResult:
        def rejected(reason: str) -> ValidationResult:
            run = job.run
            return ValidationResult(run_id=run.run_id, version=run.load.version, state="rejected", reason=reason)

        if ended is None:
            return rejected(f"loading the model and answering its examples took longer than {self._timeout_s:g} s")
        for line in ended.lines.splitlines()[-20:]:
            log.info("validation", line=line[:1000])
        if ended.status == 0:
            return ValidationResult.model_validate_json(ended.out)
        if ended.status == TRY_AGAIN:
            raise Unavailable(ended.out, code="artifact_unavailable")
        if ended.status < 0:
            with contextlib.suppress(ValueError):
                name = signal.Signals(-ended.status).name
                return rejected(f"the model crashes the process that loads it ({name}); save it again and push it")
        return rejected(f"validation ended with status {ended.status}")


def _started(model_format: str) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", "moorage_runtime.forks", model_format]
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, env=os.environ | one_thread())  # noqa: S603 - our own


def _answer(process: subprocess.Popen[bytes], job: Job, deadline: float) -> Ended | None:
    """What the process says of `job`; None when it says nothing by the deadline (on `time.monotonic`)."""
    assert process.stdin is not None  # noqa: S101 - both are pipes
    assert process.stdout is not None  # noqa: S101
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(job.model_dump_json().encode() + b"\n")
        process.stdin.flush()
    line = b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return None
        part = os.read(process.stdout.fileno(), _READ_BYTES)
        if not part:
            return Ended(status=process.wait(), out="", lines="")
        line += part
    return Ended.model_validate_json(line)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Its forks end with it."""
    process.kill()
    process.communicate()
