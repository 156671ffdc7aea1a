"""An application on the Ray cluster that this process is an actor of: what it may ask for, and its life in Ray Serve.

Serve runs the deployments outside the scheduler's placement groups. The controller, which serves every tenant, must not
run a tenant's code, so the options of Serve that would have it do so are refused; that is against accidents, since
Ray isolates nothing (see docs/operators/security.md).
"""

import hashlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
import structlog
from ray import serve
from ray._private.runtime_env.packaging import package_exists, upload_package_to_gcs
from ray.exceptions import RayError
from ray.experimental.internal_kv import _pin_runtime_env_uri
from ray.serve._private.build_app import build_app
from ray.serve.context import _get_global_client
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview

from moorage_common.contracts.desired import LoadSpec, Resources
from moorage_common.errors import MoorageError, Unavailable, Unprocessable

log = structlog.get_logger()

APP_PREFIX = "moorage."
"""Of applications' names; the rest is the name of the host that they belong to."""
START_S = 240.0
POLL_S = 0.1
CONSTRUCTIONS = 3
"""How often Serve tries a deployment's constructor that fails; its own default takes minutes to give up."""
PIN_S = 900
PIN_EVERY_S = 240.0
_OPTIONS = frozenset({"num_cpus", "num_gpus", "memory", "accelerator_type", "label_selector", "runtime_env"})
_STARTS = 5


@dataclass(frozen=True)
class Asked:
    """What all processes of an application ask for together, at the most replicas that they may become."""

    cpu_milli: int
    gpu_milli: int
    mem_mib: int
    processes: tuple[str, ...]


class Package:
    """The project in Ray's own store, from where Ray brings it to each node that needs it.

    Ray drops what no process uses; so it is pinned anew for as long as this host lives, else an application whose
    processes all die at once could not be started again.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.uri = f"gcs://_ray_pkg_moorage_{hashlib.sha256(content).hexdigest()[:32]}.zip"
        self._over = threading.Event()

    def keep(self) -> None:
        """Store it, and go on to."""
        self._store()
        threading.Thread(target=self._pin, name="package", daemon=True).start()

    def let_go(self) -> None:
        self._over.set()

    def _store(self) -> None:
        _pin_runtime_env_uri(self.uri, expiration_s=PIN_S)
        if not package_exists(self.uri):
            upload_package_to_gcs(self.uri, self._content)

    def _pin(self) -> None:
        while not self._over.wait(PIN_EVERY_S):
            try:
                self._store()
            except Exception as error:  # noqa: BLE001 - Ray may be away for a while
                log.warning("the project is not pinned", error=str(error)[:300])


class Deployed:
    """An application that runs in Serve."""

    def __init__(self, name: str, package: Package) -> None:
        self._name = name
        self._package = package
        self.handle: DeploymentHandle = serve.get_app_handle(name)

    def delete(self) -> None:
        """Have Serve end it; returns at once."""
        self._package.let_go()
        serve.delete(self._name, _blocking=False)


def actor_name() -> str | None:
    """The name of the Ray actor that this process is; None outside Ray."""
    if not ray.is_initialized():
        return None
    context = ray.get_runtime_context()
    return (context.get_actor_name() or None) if context.get_actor_id() else None


def deploy(application: serve.Application, content: bytes, spec: LoadSpec, host: str) -> Deployed:
    """Have Serve run the application for the host of that name, or find it running; blocks until it answers.

    Args:
        content: the verified zip of the project.

    Raises:
        Unprocessable: `resources_exceeded`, `application_failed`.
        Unavailable: Serve does not answer.
    """
    name = f"{APP_PREFIX}{host}"
    package = Package(content)
    _start_serve()
    package.keep()
    try:
        built = build_app(
            application,
            name=name,
            logging_config={"enable_access_log": False, "log_level": "WARNING"},
            default_runtime_env={"working_dir": package.uri},
        )
        check(built.deployments, spec.resources)
        built.deployments[:] = [d.options(max_constructor_retry_count=CONSTRUCTIONS) for d in built.deployments]
        if not _runs(name):
            _get_global_client().deploy_applications(
                [built], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False
            )
        _wait_until_running(name)
        return Deployed(name, package)
    except MoorageError:
        package.let_go()
        serve.delete(name, _blocking=False)
        raise
    except BaseException:
        package.let_go()  # the application itself is ended by the scheduler, once this host is gone
        raise


def check(deployments: Sequence[Any], resources: Resources | None) -> None:
    """Hold what an application's deployments ask for against what the version has; None has no bounds.

    Raises:
        Unprocessable: `resources_exceeded` with both numbers; `application_refused`: options that are not taken.
    """
    for deployment in deployments:
        if fault := _fault(deployment):
            raise Unprocessable(f"deployment {deployment.name}: {fault}", code="application_refused")
    if resources is None:
        return
    asked = asked_for(deployments)
    gpu_milli = resources.gpu_milli * resources.devices
    over = [
        f"{have:g} {unit} where the version has {may:g}"
        for have, may, unit in (
            (asked.cpu_milli / 1000, resources.cpu_milli / 1000, "CPU"),
            (asked.gpu_milli / 1000, gpu_milli / 1000, "GPU"),
            (asked.mem_mib, resources.host_mem_mib, "MiB of memory"),
        )
        if have > may
    ]
    if over:
        raise Unprocessable(
            f"the application's deployments ask for {', '.join(over)} ({'; '.join(asked.processes)}); deploy the "
            "version with more, or lower ray_actor_options and num_replicas in the code",
            code="resources_exceeded",
        )


def asked_for(deployments: Sequence[Any]) -> Asked:
    """The sum over deployments of their replicas, at the most, times what one asks for."""
    cpu = gpu = mem = 0.0
    processes = []
    for deployment in deployments:
        options, replicas = deployment.ray_actor_options or {}, _most_replicas(deployment)
        cpus, gpus = float(options.get("num_cpus") or 0), float(options.get("num_gpus") or 0)
        cpu += replicas * cpus
        gpu += replicas * gpus
        mem += replicas * float(options.get("memory") or 0)
        processes.append(f"{deployment.name}: {replicas} x {cpus:g} CPU" + (f", {gpus:g} GPU" if gpus else ""))
    return Asked(round(cpu * 1000), round(gpu * 1000), round(mem / 2**20), tuple(processes))


def _most_replicas(deployment: Any) -> int:
    scaling = deployment._deployment_config.autoscaling_config  # noqa: SLF001 - Serve tells it nowhere else
    return int(scaling.max_replicas) if scaling is not None else int(deployment.num_replicas or 1)


def _fault(deployment: Any) -> str | None:
    """Why an option is not taken: it would run in the controller, or escape the account."""
    config, replica = deployment._deployment_config, deployment._replica_config  # noqa: SLF001
    options = deployment.ray_actor_options or {}
    if strange := sorted(options.keys() - _OPTIONS):
        return f"ray_actor_options {', '.join(strange)} are not taken; {', '.join(sorted(_OPTIONS))} are"
    if strange := sorted((options.get("runtime_env") or {}).keys() - {"env_vars", "working_dir"}):
        return f"runtime_env {', '.join(strange)} is not taken; env_vars are, and the image has the libraries"
    if replica.placement_group_bundles or config.gang_scheduling_config or config.deployment_actors:
        return "placement groups, gangs and deployment actors are not taken; each replica is one process"
    scaling = config.autoscaling_config
    if scaling is not None and not scaling.policy.is_default_policy_function():
        return "an autoscaling policy of its own is not taken; leave policy out of autoscaling_config"
    if not config.request_router_config.is_default_request_router():
        return "a request router of its own is not taken; leave request_router_config out"
    return None


def _start_serve() -> None:
    """Reach Serve's controller, or be the one that starts it. It has no HTTP proxy: routers call hosts."""
    for left in reversed(range(_STARTS)):
        try:
            serve.start(proxy_location="Disabled")
        except Exception as error:  # noqa: BLE001 - Serve raises what it finds
            if left:  # another host may have started it at the same time
                time.sleep(0.5)
                continue
            message = f"Ray Serve cannot be started: {str(error)[:300]}; try again"
            raise Unavailable(message, code="serve_unavailable", retry_after_s=5) from None
        return


def _status(name: str) -> ApplicationStatusOverview | None:
    """None where Serve does not know the application, or its controller is away."""
    try:
        return serve.status().applications.get(name)
    except RayError as error:
        log.warning("Ray Serve's controller does not answer", error=str(error)[:300])
        return None


def _runs(name: str) -> bool:
    status = _status(name)
    return status is not None and status.status in {
        ApplicationStatus.RUNNING,
        ApplicationStatus.DEPLOYING,
        ApplicationStatus.UNHEALTHY,
    }


def _wait_until_running(name: str) -> None:
    until = time.monotonic() + START_S
    while True:
        status = _status(name)
        if status is not None and status.status == ApplicationStatus.RUNNING:
            return
        if status is not None and status.status == ApplicationStatus.DEPLOY_FAILED:
            raise Unprocessable(f"the application does not start: {_said(status)}", code="application_failed")
        if time.monotonic() > until:
            said = _said(status) if status is not None else "Serve does not know it"
            message = f"the application is not ready after {START_S:g} s: {said}"
            raise Unprocessable(message, code="application_failed")
        time.sleep(POLL_S)


def _said(status: ApplicationStatusOverview) -> str:
    """The messages of its deployments, the last lines of each, which hold the exception."""
    told = []
    for name, deployment in status.deployments.items():
        lines = [line.strip() for line in deployment.message.splitlines() if line.strip()]
        if lines:
            told.append(f"{name}: {' '.join(lines[-3:])[-500:]}")
    return "; ".join(told) or status.message[-500:] or str(status.status)
