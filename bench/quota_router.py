"""A router, as `python -m moorage_router`, that notes what its limiter does: bench/quota.py starts it.

On SIGTERM it leaves in the file `QUOTA_NOTES` an array of requests (`REQUEST`: when asked, how long the limiter took,
outcome) and beside it, as JSON, when the store answered and when it was given up. Times are of the clock that all
processes of a machine share.
"""

import json
import os
import time
from array import array
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from moorage_router.__main__ import main
from moorage_router.limits.breaker import Breaker
from moorage_router.limits.limiter import Limiter
from moorage_router.limits.store import LimitStore

LEASED, WAITED, REFUSED_AT_ONCE, REFUSED = range(4)
"""Admitted from memory; admitted after waiting for the store; refused from memory; refused after waiting."""
REQUEST = ("asked_s", "took_s", "outcome")
_notes = array("d")
_answers: list[float] = []
_trips: list[float] = []


class _Noted:
    """`Limiter.admit`, driven by hand to see whether it waits."""

    def __init__(self, admitting: Coroutine[Any, Any, Any]) -> None:
        self._admitting = admitting

    def __await__(self) -> Any:
        started = time.perf_counter()
        waited, outcome = 0, REFUSED_AT_ONCE
        try:
            steps = self._admitting.__await__()
            try:
                pending = next(steps)
            except StopIteration as ended:
                outcome = LEASED
                return ended.value
            waited = 1
            yield pending
            value = yield from steps
            outcome = LEASED
            return value
        finally:
            took = time.perf_counter() - started
            _notes.extend((time.monotonic() - took, took, outcome + waited))


def _noted(admit: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., _Noted]:
    return lambda *args: _Noted(admit(*args))


def _answered(call: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Coroutine[Any, Any, Any]]:
    async def noting(*args: Any, **kwargs: Any) -> Any:
        found = await call(*args, **kwargs)
        _answers.append(time.monotonic())
        return found

    return noting


def _count_trips() -> None:
    """A trip is when the store did not answer in time; while others use the processor, it may well have."""
    failed = Breaker.failed

    def counting(breaker: Breaker, *, slow: bool = False) -> None:
        before = breaker.trips
        failed(breaker, slow=slow)
        if breaker.trips > before:
            _trips.append(time.monotonic())

    Breaker.failed = counting


if __name__ == "__main__":
    _count_trips()
    Limiter.admit = _noted(Limiter.admit)
    LimitStore.lease = _answered(LimitStore.lease)
    LimitStore.heartbeat = _answered(LimitStore.heartbeat)
    try:
        main()
    finally:
        path = Path(os.environ["QUOTA_NOTES"])
        path.write_bytes(_notes.tobytes())
        path.with_suffix(".json").write_text(json.dumps({"heard": _answers, "trips": _trips}))
