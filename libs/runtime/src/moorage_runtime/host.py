"""The replica host as an actor class. Ray decorates it elsewhere; undecorated it is a plain object."""

import collections
import hashlib
import logging
import os
import secrets
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from pydantic import TypeAdapter

from moorage_common import logs
from moorage_common.contracts.desired import LoadSpec, ValidationRun
from moorage_common.errors import Conflict
from moorage_common.memory import keep_buffers
from moorage_runtime import gpu_caps
from moorage_runtime.apart import Job, Validator
from moorage_runtime.artifacts import ArtifactCache
from moorage_runtime.calls import Calls
from moorage_runtime.config import HostConfig
from moorage_runtime.formats import warm
from moorage_runtime.inference import Inference
from moorage_runtime.interpreter import hand_over_soon, settle_garbage, share_processor
from moorage_runtime.pooled.journal import Journal
from moorage_runtime.pooled.pool import Pool
from moorage_runtime.server import HostApp, HostServer
from moorage_runtime.versions import Held, Versions

log = structlog.get_logger()

LOG_LINES = 200
ASSIGN_WAIT_S = 0.5
"""So long an assignment waits for its versions, so that who waits for a small model does not ask for it again."""
_SPECS = TypeAdapter(list[LoadSpec])


class LogRing(logging.Handler):
    """The last LOG_LINES lines logged in this process."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: collections.deque[str] = collections.deque(maxlen=LOG_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a formatted record, at most 2,000 characters of it."""
        self._lines.append(self.format(record)[:2000])

    def last(self, count: int) -> list[str]:
        return list(self._lines)[-count:] if count > 0 else []


@dataclass(frozen=True)
class Service:
    """What a host has once it is a tenant's."""

    config: HostConfig
    versions: Held
    server: HostServer
    journal: Journal | None = None


class ReplicaHost:
    """Holds versions of one tenant, answers routers over HTTP, and the scheduler through its methods.

    Methods block, so the actor needs several threads (`max_concurrency`); all are safe for threads. The constructor
    returns at once: the versions in its config load in the background, and `identity` shows how they stand.

    A config without a tenant makes a warm host: it imports the formats it is told to, and waits for `assign`.
    """

    def __init__(self, config_json: str) -> None:
        """Listen and begin to load.

        Args:
            config_json: a `HostConfig`.
        """
        config = HostConfig.model_validate_json(config_json)
        self._ring = _configure_logs()
        hand_over_soon()
        keep_buffers()
        self._token = secrets.token_urlsafe(32)
        self._generation = hashlib.sha256(self._token.encode()).hexdigest()[:16]
        self._validator = Validator()
        self._assigning = threading.Lock()
        self._warm = threading.Event()
        self._service: Service | None = None
        if config.tenant:
            self._serve(config)
        else:
            threading.Thread(target=self._warm_up, args=(config.warm,), name="warm", daemon=True).start()

    def assign(self, config_json: str) -> dict[str, Any]:
        """Make a warm host a tenant's, once; its `identity`, of small models when they are loaded. The same again
        changes nothing.

        Raises:
            Conflict: it is another's already.
        """
        config = HostConfig.model_validate_json(config_json)
        with self._assigning:
            held = self._service
            if held is None:
                self._serve(config)
            elif (held.config.tenant, held.config.host_id) != (config.tenant, config.host_id):
                raise Conflict("this host is assigned already; take another warm one", code="host_assigned")
        until = time.monotonic() + ASSIGN_WAIT_S
        while time.monotonic() < until and any(v.state == "loading" for v in self._assigned.versions.held()):
            time.sleep(0.005)
        return self.identity()

    def _serve(self, config: HostConfig) -> None:
        os.environ.update(gpu_caps.environment(config.gpu_caps))
        share_processor(max([spec.threads for spec in config.loads], default=1))
        cache = ArtifactCache(Path(config.cache_dir))
        plain = Versions(config.tenant, cache, config.limits)
        versions: Held = plain
        journal = None
        if config.pool_memory_mib:
            journal = Journal(Path(config.cache_dir) / "pools" / config.host_id)
            versions = self._pool(config, plain, journal)
        if isinstance(versions, Pool):
            versions.register(config.loads)
        else:
            for spec in config.loads:
                plain.announce(spec)
        app = HostApp(
            Calls(Inference(versions, config.limits), config.max_body_bytes),
            tenant=config.tenant,
            token=self._token,
            max_body_bytes=config.max_body_bytes,
        )
        server = HostServer(app, config.bind)
        server.start()
        self._service = Service(config, versions, server, journal)
        log.info("host started", host=config.host_id, tenant=config.tenant, address=server.address)
        threading.Thread(target=self._load_all, args=(self._service,), name="loads", daemon=True).start()

    def _pool(self, config: HostConfig, plain: Versions, journal: Journal) -> Pool:
        validator = Validator(kept=0)

        def checked_apart(spec: LoadSpec) -> str:
            run = ValidationRun(run_id="suspect", load=spec)
            result = validator.validate(Job(tenant=config.tenant, cache_dir=config.cache_dir, run=run))
            return result.reason if result.state == "rejected" else ""

        budget = config.pool_memory_mib * 1024 * 1024
        return Pool(plain.open_shared, checked_apart, journal, budget_bytes=budget, limits=config.limits)

    def _warm_up(self, formats: Sequence[str]) -> None:
        for model_format in formats:
            warm(model_format)
        settle_garbage()
        self._warm.set()

    def _load_all(self, service: Service) -> None:
        for spec in service.config.loads if service.journal is None else []:  # a pool loads them by itself
            service.versions.load(spec)
        self._warm_up(service.config.warm)

    def identity(self) -> dict[str, Any]:
        """generation, token, address (`host:port`), pid, devices, versions (`HeldVersion` dicts), tenant, warm.

        A warm host has neither tenant nor address; `warm` says whether all it was told to import is there.
        """
        service = self._service
        return {
            "generation": self._generation,
            "token": self._token,
            "address": _reachable(service.server.address) if service is not None else "",
            "pid": os.getpid(),
            "devices": (service.config.devices if service is not None else []) or _devices_from_ray(),
            "versions": [held.model_dump(mode="json") for held in service.versions.held()] if service else [],
            "tenant": service.config.tenant if service is not None else "",
            "warm": self._warm.is_set(),
        }

    def load(self, spec_json: str) -> dict[str, Any]:
        """Load a `LoadSpec`; the `HeldVersion` it became, `ready` or `failed` with the reason. Blocks meanwhile."""
        return self._assigned.versions.load(LoadSpec.model_validate_json(spec_json)).model_dump(mode="json")

    def register(self, specs_json: str) -> None:
        """Have a pooled host know a list of `LoadSpec`; `identity` shows how they fare. Returns at once.

        Raises:
            Unavailable: `pool_full`.
        """
        self._pooled.register(_SPECS.validate_json(specs_json))

    def memory(self) -> dict[str, int]:
        """How a pooled host uses its memory."""
        return self._pooled.memory()

    def unload(self, model: str, version: int) -> None:
        """Drain and drop a version; new requests for it get 503 `draining`. Blocks meanwhile."""
        service = self._assigned
        service.versions.unload(model, version)
        if service.journal is None:  # a pool drops many, and a collection takes a tenth of a second
            settle_garbage()

    @property
    def _assigned(self) -> Service:
        if self._service is None:
            raise Conflict("this host is warm and no tenant's yet", code="host_unassigned")
        return self._service

    @property
    def _pooled(self) -> Pool:
        versions = self._assigned.versions
        if not isinstance(versions, Pool):
            raise Conflict("this host is not pooled", code="host_not_pooled")
        return versions

    def validate(self, run_json: str) -> dict[str, Any]:
        """Run a `ValidationRun` in a process of its own beside what is served; the `ValidationResult`. Blocks.

        Raises:
            Unavailable: the artifacts cannot be fetched now; try again.
        """
        run, config = ValidationRun.model_validate_json(run_json), self._assigned.config
        job = Job(tenant=config.tenant, cache_dir=config.cache_dir, run=run)
        return self._validator.validate(job).model_dump(mode="json")

    def logs(self, count: int = LOG_LINES) -> list[str]:
        """The last lines logged, oldest first."""
        return self._ring.last(count)

    def stop(self) -> None:
        """Answer what is in flight, then close the port."""
        service = self._service
        if service is not None:
            service.server.stop()
            if service.journal is not None:
                service.journal.close()
        self._validator.close()


def _configure_logs() -> LogRing:
    logs.configure("host")
    logging.captureWarnings(capture=True)
    ring = LogRing()
    root = logging.getLogger()
    ring.setFormatter(root.handlers[0].formatter)
    root.addHandler(ring)
    return ring


def _reachable(address: str) -> str:
    """The address others call: a host that listens everywhere is reached at its node's address."""
    bind, _, port = address.rpartition(":")
    ray = _ray()
    if ray is None or bind not in ("0.0.0.0", "[::]", "::"):  # noqa: S104 - recognised, not bound
        return address
    return f"{ray.util.get_node_ip_address()}:{port}"


def _devices_from_ray() -> list[int]:
    """GPUs that Ray gave this actor; none outside Ray."""
    ray = _ray()
    if ray is None:
        return []
    ids = ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
    return [int(i) for i in ids if i.isdigit()]


def _ray() -> Any:
    """Ray, where this process is one of its actors, else None."""
    if "ray" not in sys.modules:
        return None
    import ray  # noqa: PLC0415 - an actor's process has it already

    return ray if ray.is_initialized() else None
