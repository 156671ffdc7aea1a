"""How a host sets up its process: threads of numeric libraries, hand-over of the interpreter, garbage."""

import gc
import os
import sys

from threadpoolctl import threadpool_limits

SWITCH_INTERVAL_S = 0.0005
"""After which a thread that waits gets the interpreter. With CPython's 5 ms, beside a model that computes in Python the
event loop answered a third of the requests at three times the latency."""

_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")


def one_thread() -> dict[str, str]:
    """Variables of a process whose native libraries are to use one thread."""
    return dict.fromkeys(_VARIABLES, "1")


def share_processor(threads: int) -> None:
    """Let native libraries use `threads` threads: those loaded already, and those loaded later.

    They would start one for each processor of the node, whatever the replica asked for. Call it after a load too: a
    library that was loaded by then is told itself.
    """
    for name in _VARIABLES:
        os.environ[name] = str(threads)
    threadpool_limits(limits=threads)


def hand_over_soon() -> None:
    """Let the event loop have the interpreter soon while a model computes in a thread."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)


def settle_garbage() -> None:
    """Collect garbage now, and keep what is left out of later collections: libraries and models are a million objects,
    through which a full collection walks for 0.1 s while every request waits."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
