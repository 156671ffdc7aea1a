"""The replica host as an actor class. Ray decorates it elsewhere; undecorated it is a plain object."""

import collections
import hashlib
import logging
import os
import secrets
import sys
import threading
from pathlib import Path
from typing import Any

import structlog

from moorage_common import logs
from moorage_common.contracts.desired import LoadSpec, ValidationRun
from moorage_common.memory import keep_buffers
from moorage_runtime.apart import Job, Validator
from moorage_runtime.artifacts import ArtifactCache
from moorage_runtime.calls import Calls
from moorage_runtime.config import HostConfig
from moorage_runtime.formats import warm
from moorage_runtime.inference import Inference
from moorage_runtime.interpreter import hand_over_soon, settle_garbage, share_processor
from moorage_runtime.server import HostApp, HostServer
from moorage_runtime.versions import Versions

log = structlog.get_logger()

LOG_LINES = 200


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


class ReplicaHost:
    """Holds versions of one tenant, answers routers over HTTP, and the scheduler through its methods.

    Methods block, so the actor needs several threads (`max_concurrency`); all are safe for threads. The constructor
    returns at once: the versions in its config load in the background, and `identity` shows how they stand.
    """

    def __init__(self, config_json: str) -> None:
        """Listen and begin to load.

        Args:
            config_json: a `HostConfig`.
        """
        self._config = HostConfig.model_validate_json(config_json)
        self._ring = _configure_logs()
        hand_over_soon()
        keep_buffers()
        share_processor(max([spec.threads for spec in self._config.loads], default=1))
        self._token = secrets.token_urlsafe(32)
        self._generation = hashlib.sha256(self._token.encode()).hexdigest()[:16]
        cache = ArtifactCache(Path(self._config.cache_dir))
        self._versions = Versions(self._config.tenant, cache, self._config.limits)
        for spec in self._config.loads:
            self._versions.announce(spec)
        self._validator = Validator()
        app = HostApp(
            Calls(Inference(self._versions, self._config.limits), self._config.max_body_bytes),
            tenant=self._config.tenant,
            token=self._token,
            max_body_bytes=self._config.max_body_bytes,
        )
        self._server = HostServer(app, self._config.bind)
        self._server.start()
        log.info("host started", host=self._config.host_id, tenant=self._config.tenant, address=self._server.address)
        threading.Thread(target=self._load_all, name="loads", daemon=True).start()

    def _load_all(self) -> None:
        for spec in self._config.loads:
            self._versions.load(spec)
        for model_format in self._config.warm:
            warm(model_format)
        settle_garbage()

    def identity(self) -> dict[str, Any]:
        """generation, token, address (`host:port`), pid, devices, versions (`HeldVersion` dicts)."""
        return {
            "generation": self._generation,
            "token": self._token,
            "address": _reachable(self._server.address),
            "pid": os.getpid(),
            "devices": self._config.devices or _devices_from_ray(),
            "versions": [held.model_dump(mode="json") for held in self._versions.held()],
        }

    def load(self, spec_json: str) -> dict[str, Any]:
        """Load a `LoadSpec`; the `HeldVersion` it became, `ready` or `failed` with the reason. Blocks meanwhile."""
        return self._versions.load(LoadSpec.model_validate_json(spec_json)).model_dump(mode="json")

    def unload(self, model: str, version: int) -> None:
        """Drain and drop a version; new requests for it get 503 `draining`. Blocks meanwhile."""
        self._versions.unload(model, version)
        settle_garbage()

    def validate(self, run_json: str) -> dict[str, Any]:
        """Run a `ValidationRun` in a process of its own beside what is served; the `ValidationResult`. Blocks.

        Raises:
            Unavailable: the artifacts cannot be fetched now; try again.
        """
        run = ValidationRun.model_validate_json(run_json)
        job = Job(tenant=self._config.tenant, cache_dir=self._config.cache_dir, run=run)
        return self._validator.validate(job).model_dump(mode="json")

    def logs(self, count: int = LOG_LINES) -> list[str]:
        """The last lines logged, oldest first."""
        return self._ring.last(count)

    def stop(self) -> None:
        """Answer what is in flight, then close the port."""
        self._server.stop()
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
