"""The versions of a pooled host: all known and checked, those lately used in memory, the others loaded when asked for.

Loads take turns in one thread: that bounds what they take beside the answers, lets the memory of each be measured, and
leaves one suspect when a parser brings the process down.
"""

import asyncio
import functools
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import structlog

from moorage_common.contracts.desired import LoadSpec
from moorage_common.contracts.endpoints import HeldVersion
from moorage_common.contracts.tensors import DATA_FORMATS
from moorage_common.errors import DeadlineExceeded, MoorageError, Unavailable, Unprocessable
from moorage_runtime.batching import Batcher, Turn
from moorage_runtime.formats import Model, inline_s, warm
from moorage_runtime.interpreter import share_processor
from moorage_runtime.limits import Limits
from moorage_runtime.pacing import Pace
from moorage_runtime.pooled.journal import MOST_VERSIONS, Journal, Mark
from moorage_runtime.pooled.lru import Residents
from moorage_runtime.pooled.memory import give_back, resident_bytes
from moorage_runtime.pooled.watched import Suspect, Watched
from moorage_runtime.versions import DRAIN_S, Served, no_version, not_serving
from moorage_runtime.workers import Workers

log = structlog.get_logger()

Key = tuple[str, int]
FLOOR_BYTES = 128 * 1024
"""A version counts for at least this and its file's size: what it takes may come from memory that was freed before."""
MOST_BYTES, MOST_TIMES = 1024 * 1024, 8
"""It counts for at most the first and so many times its file's size: requests take memory while it is measured."""
SLACK_BYTES = 96 * 1024 * 1024
"""Beside the models: buffers of requests, and what the allocator keeps."""
PREDICTING = 4
"""Threads for predicts that are too long for the event loop, all versions together."""
WAITING = 64
"""Requests that one version may hold: it cannot fill the host that it shares."""


@dataclass(eq=False)
class _Entry:
    spec: LoadSpec
    held: HeldVersion
    mark: Mark
    pace: Pace = field(default_factory=Pace)
    served: Served | None = None
    size_bytes: int = 0
    waking: "Future[Served] | None" = None
    asleep: int = 0
    """Requests that wait for the load under way."""

    @property
    def name(self) -> str:
        return name_of(self.spec.model, self.spec.version)

    def become(self, state: str, reason: str = "") -> None:
        self.held = HeldVersion.model_validate({**self.held.model_dump(), "state": state, "reason": reason})


def name_of(model: str, version: int) -> str:
    """How a version is called in the journal."""
    return f"{model}/{version}"


def charged_bytes(grown: int, file_bytes: int, before: int = 0) -> int:
    """What a version counts for.

    Args:
        grown: by how much the process grew while it was loaded.
        before: what it counted for when it was in memory last; 0 the first time.
    """
    bounded = min(max(grown, FLOOR_BYTES + file_bytes), MOST_BYTES + MOST_TIMES * file_bytes)
    return (before + bounded) // 2 if before else bounded


class Pool:
    """Versions of one tenant by (model, version). Safe for threads; `serving` and `woken` are for the event loop."""

    def __init__(
        self,
        opened: Callable[[LoadSpec], Model],
        checked_apart: Callable[[LoadSpec], str],
        journal: Journal,
        *,
        budget_bytes: int,
        limits: Limits,
    ) -> None:
        """Begin empty.

        Args:
            opened: loads a version. Blocks; raises MoorageError.
            checked_apart: loads a version in a process of its own; why it cannot be served, or "". Blocks.
        """
        self._opened = opened
        self._checked_apart = checked_apart
        self._journal = journal
        self._limits = replace(limits, max_waiting=min(WAITING, limits.max_waiting))
        self._lock = threading.Lock()
        self._entries: dict[Key, _Entry] = {}
        self._residents: Residents[Key] = Residents(budget_bytes)
        self._turn = Turn()
        self._suspects_turn = threading.Lock()
        self._loaders = Workers("load")
        self._predictors = Workers("predict", most=PREDICTING)
        self._formats: set[str] = set()
        self._base_bytes = resident_bytes()

    def register(self, specs: Iterable[LoadSpec]) -> None:
        """Know these versions too. Each is loaded once, in the background, and then shown as ready or failed.

        One that is known already keeps its state; a failed one is tried again, unless it brought a process down.

        Raises:
            Unavailable: `pool_full`.
        """
        for spec in specs:
            with self._lock:
                entry = self._entered(spec)
                if entry is not None:
                    self._begin(entry)

    def _begin(self, entry: _Entry) -> "Future[Served]":
        """Have a version loaded; the load that is under way already, if one is."""
        if entry.waking is None:
            entry.waking = Future()
            self._loaders.submit(functools.partial(self._load, entry, entry.waking))
        return entry.waking

    def _entered(self, spec: LoadSpec) -> _Entry | None:
        """The entry to load; None where nothing is to be done."""
        key = (spec.model, spec.version)
        entry = self._entries.get(key)
        if entry is not None:
            entry.spec = _sparing(spec)  # its URL is fresher
            if entry.held.state in ("ready", "draining") or entry.waking is not None:
                return None
            if entry.name in self._journal.verdicts.failed:
                return None
            entry.become("loading")
            return entry
        if len(self._entries) >= MOST_VERSIONS:
            raise Unavailable(f"a pool holds {MOST_VERSIONS} versions at most; use another", code="pool_full")
        name = name_of(spec.model, spec.version)
        held = HeldVersion(model=spec.model, version=spec.version, state="loading")
        self._entries[key] = entry = _Entry(_sparing(spec), held, self._journal.enter(name))
        reason = self._journal.verdicts.failed.get(name, "")
        if spec.format not in DATA_FORMATS:
            reason = (
                f"format {spec.format} is code, which needs a process of its own: deploy it with isolation dedicated"
            )
        if reason:
            entry.become("failed", reason)
            return None
        return entry

    def unload(self, model: str, version: int) -> None:
        """Forget a version; blocks while it answers what it has, for at most DRAIN_S."""
        with self._lock:
            entry = self._entries.get((model, version))
            if entry is None:
                return
            entry.become("draining")
        until = time.monotonic() + DRAIN_S
        while (entry.waking or self._busy((model, version))) and time.monotonic() < until:
            time.sleep(0.01)
        with self._lock:
            self._entries.pop((model, version), None)
            self._residents.drop((model, version))
            if entry.served is not None:
                entry.served.batcher.close()
            self._journal.leave(entry.name, entry.mark)

    def load(self, spec: LoadSpec) -> HeldVersion:
        """Register one version, and how it stands once it is loaded; blocks."""
        self.register([spec])
        entry = self._entries[(spec.model, spec.version)]
        waking = entry.waking
        if waking is not None:
            waking.exception()
        return entry.held

    def held(self) -> list[HeldVersion]:
        with self._lock:
            return [entry.held for entry in self._entries.values()]

    def memory(self) -> dict[str, int]:
        """Versions known and in memory, bytes that those count for, the budget, and what the process takes."""
        with self._lock:
            return {
                "versions": len(self._entries),
                "resident": len(self._residents),
                "used_bytes": self._residents.used_bytes,
                "budget_bytes": self._residents.budget_bytes,
                "process_bytes": resident_bytes(),
            }

    def serving(self, model: str, version: int) -> Served | None:
        """The version if it is in memory, None if it is to be loaded first (`woken`). Raises as `Versions.serving`."""
        with self._lock:
            entry = self._entries.get((model, version))
            if entry is None:
                raise no_version(model, version)
            if entry.held.state != "ready":
                raise not_serving(entry.held)
            if entry.served is not None:
                self._residents.touch((model, version))
            return entry.served

    async def woken(self, model: str, version: int, deadline: float) -> Served:
        """The version once it is loaded; all that wait for it share one load.

        Raises:
            DeadlineExceeded: it was not loaded in time.
            Unavailable: too many wait for it.
            MoorageError: it does not load.
        """
        with self._lock:
            entry = self._entries.get((model, version))
            if entry is None:
                raise no_version(model, version)
            if entry.asleep >= self._limits.max_waiting:
                raise Unavailable(
                    f"{entry.asleep} requests wait for version {version} of '{model}' to be loaded; try again",
                    code="host_busy",
                    retry_after_s=1,
                )
            waiting = asyncio.wrap_future(self._begin(entry))
        entry.asleep += 1
        waiting.add_done_callback(lambda done: done.cancelled() or done.exception())  # whoever waited may be gone
        try:
            done, _ = await asyncio.wait({waiting}, timeout=max(0.0, deadline - time.monotonic()))
        finally:
            entry.asleep -= 1
        if not done:
            raise DeadlineExceeded(
                f"version {version} of '{model}' was not loaded into its pool before the deadline; allow more time"
            )
        return waiting.result()

    def _load(self, entry: _Entry, future: "Future[Served]") -> None:
        """Load one version and settle what waits for it. In the loader's thread; never raises."""
        try:
            served = self._loaded(entry)
        except Exception as error:  # noqa: BLE001 - a pool outlives a version that does not load
            told = error if isinstance(error, MoorageError) else Unprocessable(f"{type(error).__name__}: {error}")
            passing = entry.held.state == "ready" and told.status == 503
            if not passing and entry.held.state != "draining":
                entry.become("failed", told.message)
            log.warning("pooled version failed to load", model=entry.spec.model, version=entry.spec.version, told=told)
            entry.waking = None
            future.set_exception(told)
            return
        if entry.held.state == "loading":
            entry.become("ready")
        entry.waking = None
        future.set_result(served)

    def _loaded(self, entry: _Entry) -> Served:
        spec = entry.spec
        self._prepare(spec.format)
        verdicts = self._journal.verdicts
        suspect = entry.name in verdicts.suspects
        if suspect and entry.name in verdicts.loading and (reason := self._checked_apart(spec)):
            self._journal.fail(entry.name, reason)
            raise Unprocessable(reason, code="crashes")
        with entry.mark.loading():
            model, size = self._measured(spec)
        size = charged_bytes(size, spec.artifact.size_bytes, entry.size_bytes)
        if size > self._residents.budget_bytes:
            raise Unprocessable(
                f"the model takes {size >> 20} MiB of memory and the pool has {self._residents.budget_bytes >> 20}; "
                "deploy it with isolation dedicated",
                code="too_large_for_pool",
            )
        watched: Model = Watched(model, entry.mark)
        if suspect:
            assert isinstance(watched, Watched)  # noqa: S101 - just made
            watched = Suspect(watched, self._suspects_turn, lambda: self._journal.trust(entry.name))
        batcher = Batcher(
            watched,
            batchable=spec.signature.batchable,
            max_batch=spec.max_batch,
            name=entry.name,
            limits=self._limits,
            turn=self._turn,
            inline_s=inline_s(watched),
            workers=self._predictors,
            pace=entry.pace,
        )
        served = Served(spec, batcher)
        self._admit(entry, served, size)
        return served

    def _admit(self, entry: _Entry, served: Served, size: int) -> None:
        """Into memory, and out of it what that leaves no room for."""
        with self._lock:
            key = (entry.spec.model, entry.spec.version)
            if self._entries.get(key) is not entry:
                return  # let go meanwhile
            entry.served, entry.size_bytes = served, size
            leaving = self._residents.admit(key, size, self._busy)
            if not leaving and self._outgrown():
                leaving = self._residents.excess_one(lambda other: other == key or self._busy(other))
            for other in leaving:
                self._entries[other].served = None  # requests that have it already answer with it
        if leaving and self._outgrown():
            give_back()

    def _outgrown(self) -> bool:
        """Whether the process takes more than its models count for: then one leaves for each that comes."""
        return resident_bytes() - self._base_bytes > self._residents.budget_bytes + SLACK_BYTES

    def _busy(self, key: Key) -> bool:
        entry = self._entries[key]
        return entry.served is not None and entry.served.batcher.waiting > 0

    def _measured(self, spec: LoadSpec) -> tuple[Model, int]:
        """The model and by how much the process grew; the first of a format pays once for what all of it share."""
        if spec.format not in self._formats:
            self._opened(spec)
            self._formats.add(spec.format)
            self._base_bytes = max(self._base_bytes, resident_bytes() - self._residents.used_bytes)
        before = resident_bytes()
        model = self._opened(spec)
        return model, resident_bytes() - before

    def _prepare(self, model_format: str) -> None:
        if model_format not in self._formats:
            warm(model_format)
            share_processor(1)


def _sparing(spec: LoadSpec) -> LoadSpec:
    """One thread a model: a pool has hundreds."""
    return spec.model_copy(update={"threads": 1})
