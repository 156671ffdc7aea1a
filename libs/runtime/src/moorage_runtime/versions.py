"""The versions a host holds: loading, serving, draining."""

import contextlib
import threading
import time
from typing import Protocol

import numpy as np
import structlog

from moorage_common.contracts.desired import LoadSpec
from moorage_common.contracts.endpoints import HeldVersion
from moorage_common.contracts.tensors import CODE_FORMATS, Signature
from moorage_common.errors import MoorageError, NotFound, Unavailable, Unprocessable
from moorage_runtime.artifacts import ArtifactCache
from moorage_runtime.batching import Batcher, Turn
from moorage_runtime.coroutines import Concurrent
from moorage_runtime.formats import AsyncModel, Model, inline_s, is_async, load_model
from moorage_runtime.gpu_memory import GpuMemory, Unmeasured, gpu_memory, hold_to, visible_devices
from moorage_runtime.interpreter import settle_garbage, share_processor
from moorage_runtime.limits import Limits
from moorage_runtime.v2 import DTYPES, Array

log = structlog.get_logger()

DRAIN_S = 30.0


class Served:
    """A version that answers.

    Attributes:
        plain: its inputs are numbers that raw bytes hold as numpy does.
        given: the datatypes of its outputs, by name.
    """

    def __init__(self, spec: LoadSpec, batcher: Batcher | Concurrent) -> None:
        self.spec = spec
        self.batcher = batcher
        self.plain = not {t.datatype for t in spec.signature.inputs} & {"BYTES", "BF16"}
        self.given = {t.name: t.datatype for t in spec.signature.outputs}

    @property
    def signature(self) -> Signature:
        return self.spec.signature


class Held(Protocol):
    """What a host holds: `Versions`, or the `Pool` of a pooled host. Safe for threads."""

    def load(self, spec: LoadSpec) -> HeldVersion:
        """Load a version, and how it stands then. Blocks, never raises for a bad version."""
        ...

    def unload(self, model: str, version: int) -> None:
        """Drain and drop a version. Blocks."""
        ...

    def held(self) -> list[HeldVersion]:
        """How each stands."""
        ...

    def serving(self, model: str, version: int) -> Served | None:
        """The version if it answers now; None if it is ready and has to be loaded again first.

        Raises:
            NotFound: the host does not hold it.
            Unavailable: `not_loaded` or `draining`.
        """
        ...

    async def woken(self, model: str, version: int, deadline: float) -> Served:
        """The version once it is loaded again."""
        ...


class _Slot:
    def __init__(self, spec: LoadSpec) -> None:
        self.loading = threading.Lock()
        self.served: Served | None = None
        self.held = HeldVersion(model=spec.model, version=spec.version, state="loading")

    def become(self, state: str, reason: str = "") -> None:
        self.held = HeldVersion.model_validate({**self.held.model_dump(), "state": state, "reason": reason})


class Versions:
    """Versions of one tenant by (model, version); safe for threads."""

    def __init__(
        self, tenant: str, cache: ArtifactCache, limits: Limits | None = None, gpu: GpuMemory | None = None
    ) -> None:
        self._tenant = tenant
        self._gpu_memory = gpu or (gpu_memory() if visible_devices() else Unmeasured())
        self._cache = cache
        self._limits = limits or Limits()
        self._turn = Turn()
        self._slots: dict[tuple[str, int], _Slot] = {}

    def announce(self, spec: LoadSpec) -> None:
        """Show a version as loading before its load begins."""
        self._slots.setdefault((spec.model, spec.version), _Slot(spec))

    def load(self, spec: LoadSpec) -> HeldVersion:
        """Load a version, or say how it stands if it is held; a failed one is tried again. Blocks, never raises."""
        slot = self._slots.setdefault((spec.model, spec.version), _Slot(spec))
        with slot.loading:
            if slot.held.state == "ready" and slot.served and slot.served.spec.artifact.digest == spec.artifact.digest:
                return slot.held
            slot.become("loading")
            began = time.monotonic()
            try:
                model = self.open(spec)
                hold_to(spec.gpu_mem_mib, self._gpu_memory, visible_devices())
            except Exception as error:  # noqa: BLE001 - a host outlives a version that does not load
                reason = error.message if isinstance(error, MoorageError) else f"{type(error).__name__}: {error}"
                log.warning("version failed to load", model=spec.model, version=spec.version, reason=reason)
                slot.become("failed", reason)
                return slot.held
            share_processor(self._threads(spec))
            if slot.served is not None:
                slot.served.batcher.close()
            slot.served = Served(spec, self._answering(spec, model))
            settle_garbage()
            slot.become("ready")
            took = round(time.monotonic() - began, 3)
            log.info("version loaded", model=spec.model, version=spec.version, seconds=took)
            return slot.held

    def _answering(self, spec: LoadSpec, model: Model | AsyncModel) -> Batcher | Concurrent:
        if is_async(model):
            return Concurrent(model, self._limits)
        return Batcher(
            model,
            batchable=spec.signature.batchable,
            max_batch=spec.max_batch,
            name=f"{spec.model}-{spec.version}",
            limits=self._limits,
            turn=self._turn,
            inline_s=inline_s(model),
        )

    def open(self, spec: LoadSpec) -> Model | AsyncModel:
        """Fetch, verify, load and warm a model without serving it. Blocks.

        Raises:
            MoorageError: with what is wrong and what to do.
        """
        if spec.tenant != self._tenant:
            raise Unprocessable(f"this host is tenant '{self._tenant}', the version is of '{spec.tenant}'")
        model = load_model(self._cache.fetch(spec.artifact), spec)
        if is_async(model):
            return model
        # The first predict builds arenas and thread pools. A model may well refuse zeros.
        with contextlib.suppress(Exception):
            model.predict(_zeros(spec.signature), [o.name for o in spec.signature.outputs])
        return model

    def open_shared(self, spec: LoadSpec) -> Model:
        """As `open`, for a process that holds other versions too. Blocks.

        Raises:
            Unprocessable: `dedicated_only`: code, which may do anything to the process that it is loaded in.
        """
        model = self.open(spec) if spec.format not in CODE_FORMATS else None
        if model is None or is_async(model):
            raise Unprocessable(f"{spec.format} versions need isolation: dedicated", code="dedicated_only")
        return model

    def unload(self, model: str, version: int) -> None:
        """Drain and drop a version; blocks for at most DRAIN_S. Unknown ones are gone already."""
        slot = self._slots.get((model, version))
        if slot is None:
            return
        with slot.loading:
            slot.become("draining")
            until = time.monotonic() + DRAIN_S
            while slot.served and slot.served.batcher.waiting and time.monotonic() < until:
                time.sleep(0.01)
            self._slots.pop((model, version), None)
            if slot.served:
                slot.served.batcher.close()
        log.info("version unloaded", model=model, version=version)

    def held(self) -> list[HeldVersion]:
        return [slot.held for slot in list(self._slots.values())]

    def _threads(self, spec: LoadSpec) -> int:
        """Threads of the native libraries, which are the whole process's: the most that a version of it asked for."""
        slots = list(self._slots.values())
        return max([spec.threads, *[slot.served.spec.threads for slot in slots if slot.served is not None]])

    def serving(self, model: str, version: int) -> Served:
        """The version if it answers now.

        Raises:
            NotFound: the host does not hold it.
            Unavailable: `not_loaded` or `draining`.
        """
        slot = self._slots.get((model, version))
        if slot is None:
            raise no_version(model, version)
        if slot.held.state == "ready" and slot.served is not None:
            return slot.served
        raise not_serving(slot.held)

    async def woken(self, model: str, version: int, deadline: float) -> Served:
        """Nothing sleeps here."""
        raise no_version(model, version)


def no_version(model: str, version: int) -> NotFound:
    return NotFound(f"this replica does not hold version {version} of '{model}'", code="version_unknown")


def not_serving(held: HeldVersion) -> Unavailable:
    """What a version answers that is not ready."""
    return Unavailable(
        f"version {held.version} of '{held.model}' is {held.state} on this replica; try again",
        code="draining" if held.state == "draining" else "not_loaded",
        retry_after_s=1,
    )


def _zeros(signature: Signature) -> dict[str, Array]:
    def zeros(datatype: str, shape: list[int]) -> Array:
        dims = [1 if d == -1 else d for d in shape]
        return np.full(dims, b"", dtype=object) if datatype == "BYTES" else np.zeros(dims, DTYPES[datatype])

    return {spec.name: zeros(spec.datatype, spec.shape) for spec in signature.inputs}
