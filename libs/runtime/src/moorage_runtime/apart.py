"""Validation in a process of its own: a file that crashes or hangs the library that reads it rejects its version and
takes no served model with it. (XGBoost aborts on an empty file and overflows its stack on deep JSON.)

The parent imports the format's library meanwhile, so that the load that follows starts warm.
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
_TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h


class Job(Contract):
    """Standard input of the process; its last line of standard output is a `ValidationResult`."""

    tenant: str
    cache_dir: str
    run: ValidationRun


def validate_apart(job: Job, *, timeout_s: float = TIMEOUT_S) -> ValidationResult:
    """Run `job` in a new process. Blocks.

    Raises:
        Unavailable: the artifacts cannot be fetched now; nothing is known about the version.
    """
    threading.Thread(target=warm, args=(job.run.load.format,), name="warm", daemon=True).start()

    def rejected(reason: str) -> ValidationResult:
        run = job.run
        return ValidationResult(run_id=run.run_id, version=run.load.version, state="rejected", reason=reason)

    command = [sys.executable, "-m", "moorage_runtime.apart"]
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and module
            command, input=job.model_dump_json().encode(), capture_output=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        return rejected(f"loading the model and answering its examples took longer than {timeout_s:g} s")
    for line in done.stderr.decode(errors="replace").splitlines()[-20:]:
        log.info("validation", line=line[:1000])
    lines = done.stdout.decode(errors="replace").splitlines() or [""]
    if done.returncode == 0:
        return ValidationResult.model_validate_json(lines[-1])
    if done.returncode == _TRY_AGAIN:
        raise Unavailable(lines[-1], code="artifact_unavailable")
    if done.returncode < 0:
        with contextlib.suppress(ValueError):
            name = signal.Signals(-done.returncode).name
            return rejected(f"the model crashes the process that loads it ({name}); save it again and push it")
    return rejected(f"validation ended with status {done.returncode}")


def main() -> None:
    """The process's side."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logs.configure("validation", level="warning")
    job = Job.model_validate_json(sys.stdin.read())
    cache = ArtifactCache(Path(job.cache_dir))
    try:
        result = run_validation(job.run, Versions(job.tenant, cache, max_waiting=1), cache)
    except MoorageError as error:
        sys.stdout.write(f"\n{error.message}\n")
        sys.exit(_TRY_AGAIN)
    sys.stdout.write(f"\n{result.model_dump_json()}\n")


if __name__ == "__main__":
    main()
