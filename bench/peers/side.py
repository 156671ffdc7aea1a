"""What the benchmark knows of one side: how to start it, and how each case is put to it."""

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workload import Body, Model

SERVERS = Path(__file__).parent / "servers"
PINS = Path(__file__).parent / "pins"

CASES = ("digits", "binary", "onnx-json", "onnx-binary")
MODEL_OF = {"digits": "digits", "binary": "rowmean", "onnx-json": "network", "onnx-binary": "network"}

Encode = Callable[[Model], list[Body]]


@dataclass(frozen=True)
class Asked:
    """How a case is put to a side: the path, the bodies in turn, and whether the answer is bare numbers."""

    path: str
    encode: Encode
    wire: str
    raw: bool = False


@dataclass(frozen=True)
class Place:
    """Where a side runs: an interpreter of its own environment, the models, a scratch directory, free ports.

    `case` is the first that it is started for, the only one where the peer serves each alone.
    """

    case: str
    python: Path
    models: Path
    scratch: Path
    ports: tuple[int, ...]

    @property
    def port(self) -> int:
        return self.ports[0]


@dataclass(frozen=True)
class Peer:
    """A peer in one configuration.

    Attributes:
        pins: file of `pins/` that its environment is made of.
        shown: packages whose versions are told.
        settings: what was set, for the reader of the figures. Sizes and waits of batches are those that, of a
            handful tried, answered most requests/s at 32 and 128 connections.
        command: words to run in `scratch`.
        environment: variables on top of the common ones.
        cases: how each case is put; one that is missing is not offered by this peer.
        headers: sent with every request.
        alone: start it anew for each case.
    """

    name: str
    pins: str
    shown: tuple[str, ...]
    settings: str
    command: Callable[[Place], Sequence[str]]
    cases: Mapping[str, Asked]
    environment: Callable[[Place], Mapping[str, str]] = lambda _place: {}
    headers: Mapping[str, str] = field(default_factory=dict)
    alone: bool = False
    start_s: float = 90.0


def server(file: str) -> Callable[[Place], Sequence[str]]:
    """The command that runs a file of `servers/` with the environment's interpreter."""
    return lambda place: [str(place.python), str(SERVERS / file)]


def common(place: Place, *, batching: bool) -> dict[str, str]:
    """Variables that every server file reads, and one thread for BLAS and OpenMP as for Moorage's host."""
    return {
        "BENCH_MODELS": str(place.models),
        "BENCH_PORT": str(place.port),
        "BENCH_BATCHING": "1" if batching else "0",
        "PYTHONPATH": str(SERVERS),
        "PATH": f"{place.python.parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "HOME": str(place.scratch),
    }


def free_ports(count: int) -> tuple[int, ...]:
    """Ports that nobody listens on, all different."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return tuple(int(probe.getsockname()[1]) for probe in probes)
    finally:
        for probe in probes:
            probe.close()


class EnvironmentFailed(Exception):
    """The peer's packages could not be installed; the text is the installer's."""


def environment(pins: str, envs: Path) -> Path:
    """The interpreter of an environment made from `pins/<pins>.txt`, made now if missing or outdated."""
    wanted = (PINS / f"{pins}.txt").read_text()
    home = envs / pins
    python, mark = home / "bin" / "python", home / "moorage-bench.txt"
    if mark.exists() and mark.read_text() == wanted:
        return python
    shutil.rmtree(home, ignore_errors=True)
    home.parent.mkdir(parents=True, exist_ok=True)
    for command in _install(home, python, PINS / f"{pins}.txt"):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise EnvironmentFailed(f"{' '.join(command[:3])}: {(done.stderr or done.stdout)[-1500:]}")
    mark.write_text(wanted)
    return python


def _install(home: Path, python: Path, pins: Path) -> list[list[str]]:
    import sys

    own = Path(__file__).parents[2] / ".uv" / "bin" / "uv"
    uv = str(own) if own.exists() else shutil.which("uv")
    if uv:
        return [
            [uv, "venv", "-q", "--python", sys.executable, str(home)],
            [uv, "pip", "install", "-q", "--python", str(python), "-r", str(pins)],
        ]
    return [[sys.executable, "-m", "venv", str(home)], [str(python), "-m", "pip", "install", "-q", "-r", str(pins)]]


def versions(python: Path, names: Sequence[str]) -> dict[str, str]:
    """Installed versions of packages in that environment."""
    code = "import json,sys,importlib.metadata as m; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    done = subprocess.run([str(python), "-c", code, *names], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found
