"""An environment of its own for each client, from the versions pinned beside its driver."""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
CLIENTS = Path(__file__).parents[1] / "clients"
MADE_IN = ROOT / ".tools" / "clients"
TIMEOUT_S = 240


class NoEnvironment(Exception):
    """Why it could not be made, in a line."""


def python_of(name: str) -> Path:
    """The Python of the environment of `clients/<name>.txt`, made when it is not there or its versions changed.

    Raises:
        NoEnvironment: no uv, or it cannot install what is pinned.
    """
    pinned = CLIENTS / f"{name}.txt"
    stamp = hashlib.sha256(pinned.read_bytes() + platform.python_version().encode()).hexdigest()
    home = MADE_IN / name
    python, noted = home / "bin" / "python", home / ".pinned"
    if python.exists() and noted.exists() and noted.read_text() == stamp:
        return python
    uv = _uv()
    _run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(home)])
    _run([uv, "pip", "install", "--quiet", "--python", str(python), "-r", str(pinned)])
    noted.write_text(stamp)
    return python


def _uv() -> str:
    own = ROOT / ".uv" / "bin" / "uv"
    found = str(own) if own.exists() else shutil.which("uv")
    if found is None:
        raise NoEnvironment("uv is not there; run: make setup")
    return found


def _run(command: list[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, env=environment)
    except subprocess.TimeoutExpired:
        raise NoEnvironment(f"uv did not end within {TIMEOUT_S} s") from None
    if ended.returncode:
        raise NoEnvironment(" ".join(ended.stderr.split())[-300:] or "uv failed")
