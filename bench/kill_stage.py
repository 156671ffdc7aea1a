"""What bench/kills.py kills on: a platform of three Ray nodes with its deployments, and the views on how they stand."""

import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import psutil
from onnx import TensorProto, helper
from platform_run import lift_limits
from ray_cluster import Actor, Machines, RayTables, machines

import moorage_sdk
from moorage_common.contracts.desired import Isolation

POOL = "_pool"
HOSTS = {"pair": 2, "single": 1, POOL: 1}
"""How many hosts there should be, by what the scheduler has in the place of a model's name."""
STREAMS = {"pair": ("pair",), "single": ("single",), POOL: ("small-1", "small-2", "small-3")}
"""The deployments that those hosts serve."""
NODES = 3
GPUS = 2
_WIDTH = 4
_RETRIES = re.compile(r'^moorage_router_retries_total\{reason="(\w+)"\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True)
class Victims:
    """What was killed at `at`. `node` is one whose raylet it was: it stays away until all is well, or `returns` by
    itself. `after_fencing` is of a leader that was killed."""

    at: float
    hosts: tuple[str, ...]
    streams: tuple[str, ...]
    without_sibling: tuple[str, ...]
    node: str | None = None
    returns: bool = False
    after_fencing: int | None = None


@dataclass(frozen=True)
class View:
    """The scheduler's `GET /v1/placements`; of one that does not answer all is empty."""

    role: str = ""
    fencing: int = 0
    nodes: tuple[str, ...] = ()
    queued: int = 0
    replicas: dict[str, dict[str, Any]] = field(default_factory=dict)
    used_milli: dict[tuple[str, int], int] = field(default_factory=dict)

    def ready_at(self, host: str) -> float:
        return float(self.replicas[host]["ready_at"] or time.time())

    def of(self, model: str) -> list[str]:
        """Hosts of `model`."""
        return [host for host, replica in self.replicas.items() if replica["model"] == model]

    def still_shows(self, hosts: Sequence[str]) -> bool:
        """Whether these are all ready, as before they died."""
        return self.role == "leader" and all(self.replicas.get(h, {}).get("state") == "ready" for h in hosts)


@dataclass
class Stage:
    """The platform under load."""

    local: dict[str, Any]
    machines: Machines
    tables: RayTables
    http: httpx.Client
    requests: dict[str, tuple[str, str]] = field(default_factory=dict)
    """URL and body by deployment."""
    _seen: dict[int, tuple[str, float]] = field(default_factory=dict)
    """Every host's process: its name and when it was started."""
    _models: dict[str, str] = field(default_factory=dict)
    """Of every host that was ever shown."""

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.local['api_key']}", "content-type": "application/json"}

    def deploy(self) -> None:
        """Push the model under all names and run it."""
        node = helper.make_node("Add", ["x", "x"], ["sum"])
        given, wanted = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["rows", _WIDTH]) for n in ("x", "sum"))
        graph = helper.make_graph([node], "double", [given], [wanted])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.checker.check_model(model)
        rows = np.ones((1, _WIDTH), dtype=np.float32)
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, _WIDTH], "data": rows.ravel().tolist()}
        with moorage_sdk.Client(self.local["registry"], self.local["router"], self.local["api_key"]) as client:
            for kind, count in HOSTS.items():
                isolation: Isolation = "pooled" if kind == POOL else "dedicated"
                for name in STREAMS[kind]:
                    version = client.push(model, name=name, example=rows)
                    gpu = 0 if kind == POOL else 0.5
                    client.deploy(version, gpu=gpu, min=count, max=count, isolation=isolation)
                    url = f"{self.local['router']}/v2/models/{name}/infer"
                    self.requests[name] = (url, json.dumps({"inputs": [tensor]}))
        deadline = time.monotonic() + 60
        while not self.all_ready(self.view(), set(), None):
            if time.monotonic() > deadline:
                raise SystemExit(f"not all replicas are ready: {self.view()}")
            time.sleep(0.2)

    def view(self) -> View:
        """What the scheduler says now."""
        try:
            told = self.http.get(f"{self.local['scheduler']}/v1/placements").raise_for_status().json()
        except httpx.HTTPError:
            return View()
        replicas, used = {}, {}
        for node in told["nodes"]:
            for device in node["devices"]:
                used[node["name"], device["device"]] = 1000 - device["milli_free"]
                replicas.update({replica["host_id"]: replica for replica in device["replicas"]})
            replicas.update({replica["host_id"]: replica for replica in node["without_gpu"]})
        self._models.update({host: replica["model"] for host, replica in replicas.items()})
        names = tuple(sorted(node["name"] for node in told["nodes"]))
        return View(told["role"], told["fencing"], names, len(told["queued"]), replicas, used)

    def hosts(self) -> dict[str, int]:
        """Process ids of the live hosts by name, from Ray's table."""
        found = {a.name: a.pid for a in self.tables.actors() if "#" not in a.name and _alive(a.pid)}
        for name, pid in found.items():
            if pid not in self._seen:
                self._seen[pid] = (name, psutil.Process(pid).create_time())
        return found

    def pid(self, host: str) -> int:
        return self.hosts()[host]

    def child(self, name: str) -> int:
        """Process id of a child of the launcher."""
        noted = json.loads(Path(self.local["state"], "processes.json").read_text())
        return int(noted["processes"][name][0])

    def oldest(self, model: str) -> str:
        """The host of `model` that is ready for the longest time."""
        view = self.view()
        return min(view.of(model), key=view.ready_at)

    def worker_with(self, model: str) -> tuple[str, list[str]]:
        """A node of ours with a replica of `model`, and all hosts on it."""
        replicas = self.view().replicas
        for node in self.machines.specs:
            here = [host for host, replica in replicas.items() if replica["node"] == node]
            if any(replicas[host]["model"] == model for host in here):
                return node, here
        raise SystemExit(f"no worker node has a replica of {model}: {replicas}")

    def victims(
        self, at: float, hosts: Sequence[str], *, node: str | None = None, after_fencing: int | None = None
    ) -> Victims:
        killed = {model: sum(self._models[host] == model for host in hosts) for model in HOSTS}
        hit = [name for model, count in killed.items() if count for name in STREAMS[model]]
        alone = [name for model, count in killed.items() if count >= HOSTS[model] for name in STREAMS[model]]
        return Victims(at, tuple(hosts), tuple(hit), tuple(alone), node, after_fencing=after_fencing)

    def start_again(self, node: str) -> None:
        """Start a node whose raylet was killed once more; `machines.await_ready` waits for it."""
        deadline = time.monotonic() + 20
        while not self.machines.ended(node):
            if time.monotonic() > deadline:
                raise SystemExit(f"the process of {node} did not end with its raylet")
            time.sleep(0.05)
        self.machines.start(node)

    def all_ready(self, view: View, gone: set[int], after_fencing: int | None) -> bool:
        """Whether the scheduler leads and shows all replicas ready, each in a process that lives and was not killed."""
        if view.role != "leader" or view.queued or (after_fencing is not None and view.fencing <= after_fencing):
            return False
        ready = [host for host, replica in view.replicas.items() if replica["state"] == "ready"]
        if any(len(set(view.of(model)) & set(ready)) != count for model, count in HOSTS.items()):
            return False
        live = self.hosts()
        return all(host in live and live[host] not in gone for host in ready)

    def too_many(self, view: View) -> int:
        """How many live processes of one model there are above what is wanted. A warm host is what the scheduler says
        that it is now: one that was started anew is nobody's."""
        shown = {host: replica["model"] for host, replica in view.replicas.items()}
        named = {host: host.split(".")[1] for host in self.hosts() if not host.startswith("_warm.")}
        live = [{**named, **shown}.get(host) for host in self.hosts()]
        return max(live.count(model) - count for model, count in HOSTS.items())

    def leaks(self) -> list[str]:
        """What is still there and should not be, or not there and should be, a few seconds after all was well."""
        deadline = time.monotonic() + 10
        while (found := self._leaks()) and time.monotonic() < deadline:
            time.sleep(0.5)
        return found

    def _leaks(self) -> list[str]:
        view, live = self.view(), self.hosts()
        actors = self.tables.actors()
        names = [actor.name for actor in actors]
        found = [f"group {name}" for name in self.tables.leaked_groups()]
        known = {*view.replicas, *(actor.name for actor in actors if _waits(actor))}
        found += [f"actor {a.name} {a.state}" for a in actors if a.name.split("#")[0] not in known]
        found += [f"actor {name} twice" for name in {n for n in names if names.count(n) > 1}]
        found += [
            f"process {pid} of {name}"
            for pid, (name, created) in self._seen.items()
            if pid not in live.values() and _alive(pid) and psutil.Process(pid).create_time() == created
        ]
        if len(view.nodes) != NODES:
            found.append(f"nodes {view.nodes}")
        reserved = self.tables.reserved_milli()
        found += [
            f"{node} GPU {device}: {reserved.get((node, device))} of Ray, {milli} of the planner"
            for (node, device), milli in view.used_milli.items()
            if reserved.get((node, device)) != milli
        ]
        return found

    def retries(self) -> dict[str, float]:
        """Calls that the router made again, by reason, since it started."""
        text = self.http.get(f"{self.local['operations']['router-0']}/metrics").text
        return {reason: float(count) for reason, count in _RETRIES.findall(text)}


def _waits(actor: Actor) -> bool:
    """Whether it waits for versions to validate, or for a replica to become, on a node that is there."""
    return not actor.is_lost and ("._validation." in actor.name or actor.name.startswith("_warm."))


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def staged(local: dict[str, Any]) -> Iterator[Stage]:
    """Two further nodes for the platform, the deployments on them."""
    lift_limits(local)
    with machines(local, NODES - 1, GPUS) as (nodes, tables), httpx.Client(timeout=5.0, trust_env=False) as http:
        stage = Stage(local, nodes, tables, http)
        stage.deploy()
        yield stage
