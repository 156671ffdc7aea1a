"""Ray beneath a platform: further nodes that can be killed and started again, and what Ray's own tables say."""

import importlib
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from moorage_common.tied import tied
from moorage_local import ray_head, ray_nodes, services

NAMESPACE = "moorage"
START_S = 90.0
CPUS = 2
_GROUPS = ("moorage-gpu-", "moorage-cpu-")
_STAYS = ("ALIVE", "RESTARTING", "PENDING_CREATION", "DEPENDENCIES_UNREADY")


@dataclass(frozen=True)
class Actor:
    """A named actor that is not dead. `is_lost`: the group that it is in is gone, or its node is."""

    name: str
    state: str
    pid: int
    is_lost: bool


@dataclass
class Machines:
    """Ray nodes beside the platform's head, a process each; the launcher does not know them, so none starts again by
    itself."""

    address: str
    directory: str
    environment: Mapping[str, str]
    specs: dict[str, ray_nodes.RayNodeSpec] = field(default_factory=dict)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str) -> None:
        """Start node `name`, or start it again; `await_ready` waits for it."""
        command = ray_nodes.start_command(sys.executable, self.address, self.directory, self.specs[name])
        with self._log(name).open("ab") as log:
            self.running[name] = subprocess.Popen(
                tied(command), stdout=subprocess.PIPE, stderr=log, env={**os.environ, **self.environment}
            )

    def await_ready(self, name: str) -> None:
        """Until node `name` can take work."""
        process = self.running[name]
        killer = threading.Timer(START_S, process.kill)
        killer.start()
        assert process.stdout is not None
        line = process.stdout.readline()
        killer.cancel()
        if line != b"ready\n":
            raise SystemExit(f"node {name} did not start:\n{self._log(name).read_text()[-2000:]}")

    def _log(self, name: str) -> Path:
        return Path(self.directory, f"{name}.log")

    def raylet(self, name: str) -> int:
        """Process id of the node's raylet."""
        for child in psutil.Process(self.running[name].pid).children(recursive=True):
            if child.name() == "raylet":
                return child.pid
        raise SystemExit(f"node {name} has no raylet")

    def ended(self, name: str) -> bool:
        """Whether the process of the node has gone after its raylet."""
        return self.running[name].poll() is not None

    def close(self) -> None:
        for process in self.running.values():
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


class RayTables:
    """Ray's tables, read from its control service without being a driver."""

    def __init__(self, address: str) -> None:
        """The environment must hold the cluster's token, and nothing have imported Ray before that."""
        from ray._private.state import GlobalState

        options = importlib.import_module("ray._raylet").GcsClientOptions  # compiled, without types
        self._state: Any = GlobalState()
        self._state._initialize_global_state(  # noqa: SLF001 - the public API is a driver's
            options.create(address, None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=False)
        )

    def actors(self) -> list[Actor]:
        """Named actors of the scheduler's namespace that are not dead."""
        from ray.core.generated import gcs_pb2

        table = self._state._connect_and_get_accessor().get_actor_table(None, None)  # noqa: SLF001
        states = gcs_pb2.ActorTableData.ActorState.DESCRIPTOR.values_by_number
        groups, alive = self._state.placement_group_table(), self.alive()
        found = []
        for row in map(gcs_pb2.ActorTableData.FromString, table):
            state, group = states[row.state].name, groups.get(row.placement_group_id.hex())
            if row.ray_namespace == NAMESPACE and row.name and state in _STAYS:
                is_lost = group is None or group["state"] == "REMOVED" or _node_of(group["name"]) not in alive
                found.append(Actor(row.name, state, row.pid, is_lost))
        return found

    def alive(self) -> dict[str, str]:
        """Names of the nodes that live for Ray, by Ray's id."""
        return {
            node["NodeID"]: node["Labels"].get(ray_head.LABEL_NODE_NAME, "")
            for node in self._state.node_table()
            if node["Alive"]
        }

    def leaked_groups(self) -> list[str]:
        """Groups of nodes that do not live, and second ones of the same name."""
        alive = self.alive()
        names = Counter(
            entry["name"]
            for entry in self._state.placement_group_table().values()
            if entry["state"] != "REMOVED" and entry["name"].startswith(_GROUPS)
        )
        lost = [name for name in names if _node_of(name) not in alive]
        return [*lost, *(name for name, count in names.items() if count > 1)]

    def reserved_milli(self) -> dict[tuple[str, int], int]:
        """What is taken of each GPU bundle, by node's name and bundle."""
        alive = self.alive()
        totals, free = self._state.total_resources_per_node(), self._state.available_resources_per_node()
        found: dict[tuple[str, int], int] = {}
        for node_id, name in alive.items():
            for resource, total in totals.get(node_id, {}).items():
                parts = resource.split("_group_")
                bundle = parts[1].split("_")[0] if len(parts) == 2 else ""
                if parts[0] == "GPU" and bundle.isdigit() and "_" in parts[1]:
                    left = free.get(node_id, {}).get(resource, 0.0)
                    found[name, int(bundle)] = round((total - left) * 1000)
        return found


def _node_of(group: str) -> str:
    return group.rpartition("-")[2]


@contextmanager
def machines(local: dict[str, Any], count: int, gpus: int) -> Iterator[tuple[Machines, RayTables]]:
    """`count` further nodes for the platform that `local` tells of, and its Ray's tables."""
    secrets = json.loads(Path(local["state"], "secrets.json").read_text())
    environment = ray_head.environment(secrets["ray_token"])
    os.environ.update(environment)
    memory_mib = psutil.virtual_memory().total // 1024 // 1024 // (count + 1)
    names = [f"node-{number}" for number in range(2, count + 2)]
    specs = {name: ray_nodes.RayNodeSpec(name, gpus, CPUS + services.SERVE_CPUS, memory_mib) for name in names}
    found = Machines(local["ray"], str(Path(local["state"], "ray")), environment, specs)
    try:
        for name in names:
            found.start(name)
        for name in names:
            found.await_ready(name)
        yield found, RayTables(local["ray"])
    finally:
        found.close()
