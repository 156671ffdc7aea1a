"""Everything that one platform runs, each with its command and environment."""

import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from moorage_common import embedded
from moorage_common.embedded import HOST
from moorage_local import ray_head, ray_nodes
from moorage_local.credentials import Credentials
from moorage_local.ports import Ports
from moorage_local.processes import Program

CLUSTER = "local"
TENANT = "demo"
SERVICES = ("registry", "scheduler", "feature-proxy")
"""Besides the routers."""
STORES = ("nats", "redis", "ray")
SERVE_CPUS = 2
"""Logical CPUs of each node for Ray Serve applications, beyond those that there are: replicas keep all of these."""
MIB = 1024 * 1024
_FOREIGN = ("MOORAGE_", "RAY_")


@dataclass(frozen=True)
class Plan:
    """Where a platform keeps its state, listens and what it knows: all that its processes' environments need.

    Attributes:
        state: absolute path of the state directory.
        ray_dir: of Ray's sockets and logs; short, because a Unix socket's path has at most 107 bytes.
        routers: how many router processes share the router's port.
        nodes: how many Ray nodes, the head included; each has `gpus`.
        warm: how many empty hosts a node keeps ready, however few replicas start.
        identity_issuer: the OpenID Connect provider that people sign in by; empty for none.
        queue_order: the routers' setting.
    """

    state: Path
    ports: Ports
    credentials: Credentials
    gpus: int
    ray_dir: Path
    routers: int = 1
    nodes: int = 1
    warm: int = 1
    identity_issuer: str = ""
    queue_order: str = "fair"

    @property
    def node_names(self) -> list[str]:
        """Of the Ray nodes beside the head, as the scheduler calls them and their processes are called."""
        return [f"node-{number}" for number in range(2, self.nodes + 1)]

    @property
    def router_names(self) -> list[str]:
        """Of the processes; what each keeps or reports carries its name."""
        return [f"router-{number}" for number in range(self.routers)]

    @property
    def registry_url(self) -> str:
        return f"http://{HOST}:{self.ports.registry}"

    @property
    def router_url(self) -> str:
        return f"http://{HOST}:{self.ports.router}"

    @property
    def feature_proxy_url(self) -> str:
        return f"http://{HOST}:{self.ports.feature_proxy}"

    @property
    def scheduler_url(self) -> str:
        return f"http://{HOST}:{self.ports.scheduler}"

    @property
    def nats_url(self) -> str:
        return embedded.nats_url(self.ports.nats, self.credentials.nats_password)

    @property
    def redis_url(self) -> str:
        return embedded.redis_url(self.ports.redis, self.credentials.redis_password)

    @property
    def features_url(self) -> str:
        """The features' own database of the same Redis."""
        return embedded.redis_url(self.ports.redis, self.credentials.redis_password, database=1)

    @property
    def ray_address(self) -> str:
        return f"{HOST}:{self.ports.ray}"

    def described(self, api_key: str) -> dict[str, str]:
        """Content of `local.json`, the operations ports apart."""
        return {
            "registry": self.registry_url,
            "router": self.router_url,
            "feature_proxy": self.feature_proxy_url,
            "scheduler": self.scheduler_url,
            "nats": self.nats_url,
            "redis": self.redis_url,
            "features_redis": self.features_url,
            "ray": self.ray_address,
            "tenant": TENANT,
            "api_key": api_key,
            "admin_key": self.credentials.admin_key,
        }

    def operations(self) -> dict[str, str]:
        """URLs of the operations ports by process: `/healthz`, `/readyz`, `/metrics`."""
        ports = {
            **dict(zip(self.router_names, self.ports.all_router_ops, strict=True)),
            "registry": self.ports.registry_ops,
            "feature-proxy": self.ports.feature_proxy_ops,
            "scheduler": self.ports.scheduler,
        }
        return {name: f"http://{HOST}:{port}" for name, port in ports.items()}


def ray_directory(state: Path) -> tuple[Path, bool]:
    """`state/ray` where that is short enough, else a new directory in /tmp; and whether it is such a temporary one."""
    wanted = state / "ray"
    if len(str(wanted)) <= ray_head.RAY_TEMP_DIR_MAX:
        return wanted, False
    return Path(tempfile.mkdtemp(prefix="moorage-", dir="/tmp")), True


def programs(plan: Plan, listeners: Sequence[int]) -> list[Program]:
    """What to start, the slowest first.

    Args:
        listeners: file descriptors of the routers' listening sockets, one each; all inherit all.
    """
    secrets = plan.credentials
    stores = plan.state
    return [
        *_ray(plan),
        Program(
            "nats", embedded.nats_command(stores / "nats", plan.ports.nats, secrets.nats_password), _environment({})
        ),
        Program(
            "redis",
            embedded.redis_command(stores / "redis", plan.ports.redis, secrets.redis_password, appendonly=True),
            _environment({}),
        ),
        _service(plan, "scheduler", plan.ports.scheduler, _scheduler(plan)),
        _service(plan, "registry", plan.ports.registry_ops, _registry(plan)),
        *_routers(plan, listeners),
        _service(plan, "feature-proxy", plan.ports.feature_proxy_ops, _feature_proxy(plan)),
    ]


def _ray(plan: Plan) -> list[Program]:
    """The head, and the other nodes, which end with it."""
    environment = _environment(ray_head.environment(plan.credentials.ray_token))
    cpus, directory = max(2, os.cpu_count() or 2) + SERVE_CPUS, str(plan.ray_dir)
    head = ray_head.start_command(sys.executable, plan.ports.ray, plan.gpus, cpus, directory, name="node-1")
    memory_mib = psutil.virtual_memory().total // MIB // plan.nodes
    nodes = [ray_nodes.RayNodeSpec(name, plan.gpus, cpus, memory_mib) for name in plan.node_names]
    return [
        Program("ray", head, environment, takes_along=("scheduler", *plan.node_names)),
        *(
            Program(node.name, ray_nodes.start_command(sys.executable, plan.ray_address, directory, node), environment)
            for node in nodes
        ),
    ]


def _service(
    plan: Plan,
    name: str,
    ops_port: int,
    settings: Mapping[str, str],
    *,
    module: str = "",
    inherits: tuple[int, ...] = (),
) -> Program:
    everywhere = {
        "MOORAGE_HOST": HOST,
        "MOORAGE_OPS_HOST": HOST,
        "MOORAGE_OPS_PORT": str(ops_port),
        "MOORAGE_NATS_URL": plan.nats_url,
        "MOORAGE_LOG_FORMAT": "json",
    }
    return Program(
        name,
        [sys.executable, "-m", module or f"moorage_{name.replace('-', '_')}"],
        _environment({**everywhere, **settings}),
        ready_url=f"http://{HOST}:{ops_port}/readyz",
        inherits=inherits,
    )


def _routers(plan: Plan, listeners: Sequence[int]) -> list[Program]:
    programs = []
    for name, ops_port, mine in zip(plan.router_names, plan.ports.all_router_ops, listeners, strict=True):
        settings = _router(plan, name, mine, [other for other in listeners if other != mine])
        programs.append(_service(plan, name, ops_port, settings, module="moorage_router", inherits=tuple(listeners)))
    return programs


def _registry(plan: Plan) -> dict[str, str]:
    people = {"MOORAGE_IDENTITY": "oidc", "MOORAGE_IDENTITY_ISSUER": plan.identity_issuer}
    return {
        **(people if plan.identity_issuer else {}),
        "MOORAGE_PORT": str(plan.ports.registry),
        "MOORAGE_DATABASE_URL": f"sqlite+aiosqlite:///{plan.state / 'registry.db'}",
        "MOORAGE_PEPPER": plan.credentials.pepper,
        "MOORAGE_ARTIFACT_DIR": str(plan.state / "artifacts"),
        "MOORAGE_PUBLIC_URL": plan.registry_url,
        "MOORAGE_ROUTER_URL": plan.router_url,
        "MOORAGE_FEATURE_PROXY_URL": plan.feature_proxy_url,
        "MOORAGE_CLUSTER": CLUSTER,
        "MOORAGE_BOOTSTRAP_ADMIN_KEY": plan.credentials.admin_key,
    }


def _router(plan: Plan, name: str, listener: int, others: Sequence[int]) -> dict[str, str]:
    return {
        "MOORAGE_ROUTER_NAME": name,
        "MOORAGE_PORT": str(plan.ports.router),
        "MOORAGE_LISTEN_FD": str(listener),
        "MOORAGE_LISTEN_FDS_OF_OTHERS": json.dumps(others),
        "MOORAGE_PEPPER": plan.credentials.pepper,
        "MOORAGE_REDIS_URL": plan.redis_url,
        "MOORAGE_STATE_DIR": str(plan.state / "router"),
        "MOORAGE_REGISTRY_URL": plan.registry_url,
        "MOORAGE_FEATURE_PROXY_URL": plan.feature_proxy_url,
        "MOORAGE_QUEUE_ORDER": plan.queue_order,
    }


def _scheduler(plan: Plan) -> dict[str, str]:
    return {
        **ray_head.environment(plan.credentials.ray_token),
        "MOORAGE_CLUSTER": CLUSTER,
        "MOORAGE_SCHEDULER_NAME": "scheduler",
        "MOORAGE_RAY_ADDRESS": plan.ray_address,
        "MOORAGE_CACHE_DIR": str(plan.state / "cache"),
        "MOORAGE_HOST_BIND": HOST,
        "MOORAGE_SERVE_CPUS": str(SERVE_CPUS),
        "MOORAGE_WARM_LEAST": str(plan.warm),
        **({} if plan.warm in range(1, 9) else {"MOORAGE_WARM_MOST": str(plan.warm)}),
    }


def _feature_proxy(plan: Plan) -> dict[str, str]:
    return {
        "MOORAGE_PORT": str(plan.ports.feature_proxy),
        "MOORAGE_PEPPER": plan.credentials.pepper,
        "MOORAGE_REDIS_URL": plan.features_url,
        "MOORAGE_STATE_DIR": str(plan.state / "feature-proxy"),
        "MOORAGE_REGISTRY_URL": plan.registry_url,
    }


def _environment(own: Mapping[str, str]) -> dict[str, str]:
    """This process's variables without another platform's or Ray cluster's, and `own`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    return {**kept, **own}
