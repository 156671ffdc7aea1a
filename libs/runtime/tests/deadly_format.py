"""A format whose models end their process for good, as native libraries do: run as a script, a host that loads it in
the place of LightGBM. Files say what is deadly: `load`, or a number which, sent, is the last of the process.

A pooled model answers 2x; `1000` in x makes it wait until the file `gate` beside the journal is there."""

import ctypes
import os
import signal
import time
from collections.abc import Collection
from pathlib import Path

import numpy as np

from moorage_common.contracts.desired import LoadSpec
from moorage_runtime.v2 import Array

SEGFAULT, KILL, WAIT = 13.0, 14.0, 1000.0


class Deadly:
    """Crashes on 13 if its file says so, is killed on 14."""

    inline_s = 0.0

    def __init__(self, deadly: bool) -> None:
        self._deadly = deadly

    def predict(self, inputs: dict[str, Array], wanted: Collection[str]) -> dict[str, Array]:
        """2x, if the process lives."""
        x = inputs["x"]
        if self._deadly and (x == SEGFAULT).any():
            ctypes.string_at(0)
        if self._deadly and (x == KILL).any():
            os.kill(os.getpid(), signal.SIGKILL)
        while (x == WAIT).any():
            time.sleep(0.01)
        return {"y": np.asarray(2 * x)}


def load(path: Path, spec: LoadSpec) -> Deadly:
    """Crashes at once if the file says `load`."""
    text = path.read_text()
    if text.startswith("load"):
        ctypes.string_at(0)
    return Deadly(text.startswith("predict"))


if __name__ == "__main__":
    from moorage_runtime import formats
    from moorage_runtime.__main__ import main

    formats.LOADERS["lightgbm"] = "deadly_format"
    main()
