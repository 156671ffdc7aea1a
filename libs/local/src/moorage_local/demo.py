"""A process that pushes a real model in two versions, splits the traffic 90/10 and makes the first request.

It trains while the platform starts, and goes on once a line of JSON on standard input tells it where that is:
`{"registry", "router", "api_key"}`. Its own lines are JSON too: `{"say": ...}` for progress, `{"show": ...}` for text
to copy. Apart from the launcher, so that scikit-learn does not stay in its memory and Ctrl-C ends the demo at once.
"""

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moorage_common.tied import tied
from moorage_local.options import StartFailed

MODEL = "digits"
SPLIT = {1: 90.0, 2: 10.0}


TRAIN_AHEAD = "train-ahead"


@dataclass
class DemoProcess:
    """The process while it trains and after it was told to go on."""

    process: asyncio.subprocess.Process

    async def run(self, where: Mapping[str, str], on_line: Callable[[str, str], None]) -> None:
        """Let it push and ask; `on_line` takes (`say` | `show`, text).

        Raises:
            StartFailed: it ended without an answer.
        """
        assert self.process.stdin is not None  # noqa: S101 - opened below
        assert self.process.stdout is not None  # noqa: S101 - opened below
        self.process.stdin.write(json.dumps(dict(where)).encode() + b"\n")
        self.process.stdin.close()
        async for line in self.process.stdout:
            for kind, text in json.loads(line).items():
                on_line(kind, text)
        if await self.process.wait() != 0:
            message = "the demo did not get an answer"
            raise StartFailed(message)


@contextlib.asynccontextmanager
async def training(log: Path, *, ahead: bool) -> AsyncIterator[DemoProcess]:
    """The process, killed at the end of the block if it still runs.

    Args:
        ahead: train at once; left out where the models are likely to be there from an earlier start.
    """
    command = tied([sys.executable, "-m", "moorage_local.demo", *([TRAIN_AHEAD] if ahead else [])])
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=errors
        )
    try:
        yield DemoProcess(process)
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _tell(kind: str, text: str) -> None:
    sys.stdout.write(json.dumps({kind: text}) + "\n")
    sys.stdout.flush()


def _train() -> list[Any]:
    """Two classifiers of the pictures."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 - a second of import
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import MinMaxScaler  # noqa: PLC0415

    pictures, labels = load_digits(return_X_y=True)
    models = [make_pipeline(MinMaxScaler(), LogisticRegression(C=c, max_iter=300)) for c in (0.05, 1.0)]
    return [model.fit(pictures, labels) for model in models]


def _pictures() -> Any:
    """1,797 handwritten digits of 8x8 pixels from 0 to 16, one a row."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 - as above

    return load_digits().data


def main() -> int:
    os.nice(5)  # what the demo waits for goes first
    models = _train() if TRAIN_AHEAD in sys.argv else []
    from moorage_sdk.client import Client  # noqa: PLC0415 - the launcher imports this module for its start alone
    from moorage_sdk.models.packaging import package  # noqa: PLC0415

    if models:
        package(models[0], _pictures()[:8], None)  # loads what the push will need
    where = json.loads(sys.stdin.readline() or "{}")
    if not where:
        return 1
    with Client(where["registry"], where["router"], where["api_key"], progress=lambda t: _tell("say", t)) as client:
        if client.registry.deployment(MODEL) is None:
            _deploy(client, models or _train())
        _ask(client, where)
    return 0


def _deploy(client: Any, models: list[Any]) -> None:
    """Push and deploy both versions."""
    versions = [client.push(model, name=MODEL, example=_pictures()[:8], wait=False) for model in models]
    for version in versions:
        client.deploy(version, gpu=0.25, wait=False)
    client.set_traffic(MODEL, SPLIT)


def _ask(client: Any, where: Mapping[str, str]) -> None:
    """Ask until the first answer, and show how to ask with curl."""
    from moorage_sdk.errors import MoorageApiError  # noqa: PLC0415 - as above

    picture = _pictures()[:1]
    begun = time.monotonic()
    while True:
        try:
            answer = client.infer(MODEL, picture, raw=True)
            break
        except MoorageApiError as error:
            if error.status not in (0, 404, 503) or time.monotonic() - begun > 90:
                raise
            time.sleep(0.1)
    _tell("say", f"demo: first answer, from version {answer['model_version']}")
    spec = client.registry.version(MODEL, 1).signature.inputs[0]
    tensor = {"name": spec.name, "datatype": spec.datatype, "shape": [1, 64], "data": [int(v) for v in picture[0]]}
    body = json.dumps({"inputs": [tensor]}, separators=(",", ":"))
    _tell(
        "show",
        f"curl -s {where['router']}/v2/models/{MODEL}/infer -H 'Authorization: Bearer {where['api_key']}' "
        f"-H 'Content-Type: application/json' -d '{body}'",
    )


if __name__ == "__main__":
    sys.exit(main())
