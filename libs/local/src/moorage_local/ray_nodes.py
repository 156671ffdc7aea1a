"""Further nodes of a one-machine Ray cluster: a raylet each, with logical GPUs, memory and labels of its own.

They are what `ray.cluster_utils.Cluster.add_node` makes, but one process each, so that one can be killed and started
again as a machine would be. Nothing but the scheduler's account keeps them from sharing the machine's processors.
"""

import argparse
import json
import os
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from moorage_local.ray_head import OBJECT_STORE_BYTES, free_port, named, node_class, watch

LABEL_GPU_MODEL = "ray.io/accelerator-type"
LABEL_DEVICE_MIB = "moorage.io/gpu-memory-mib"
_HEAD_S = 90.0


@dataclass(frozen=True)
class RayNodeSpec:
    """What a node offers.

    Attributes:
        memory_mib: for processes on it; 0 lets Ray take what the machine has.
        gpu_mib: of each GPU; 0 is unknown.
    """

    name: str
    gpus: int
    cpus: int
    memory_mib: int = 0
    gpu_model: str = ""
    gpu_mib: int = 0
    labels: dict[str, str] = field(default_factory=dict)

    def all_labels(self) -> dict[str, str]:
        """`labels`, and those that the scheduler knows the node and its GPUs by."""
        model = {LABEL_GPU_MODEL: self.gpu_model} if self.gpu_model else {}
        memory = {LABEL_DEVICE_MIB: str(self.gpu_mib)} if self.gpu_mib else {}
        return {**self.labels, **named(self.name), **model, **memory}


def start_command(python_bin: str, address: str, temp_dir: str, spec: RayNodeSpec) -> list[str]:
    """The command that runs a node in the foreground until SIGTERM; it prints `ready` once work can be scheduled.

    Kill it any way you like: the kernel ends its raylet and replicas with it. It needs the environment of its head.

    Args:
        address: of the head's control service, `host:port` on loopback.
        temp_dir: the head's.
    """
    options = {
        "--address": address,
        "--temp-dir": temp_dir,
        "--name": spec.name,
        "--gpus": str(spec.gpus),
        "--cpus": str(spec.cpus),
        "--memory-mib": str(spec.memory_mib),
        "--labels": json.dumps(spec.all_labels()),
    }
    return [python_bin, "-m", "moorage_local.ray_nodes", *(part for option in options.items() for part in option)]


def run(options: argparse.Namespace) -> int:
    """Run the node until a signal ends this process; the exit code when one of its processes died."""
    from ray._private.parameter import RayParams  # noqa: PLC0415 - two seconds of import, not for `start_command`

    _await_head(options.address)
    # Ray numbers its sockets by those that exist, so two nodes that start at once would take the same.
    sockets = Path(options.temp_dir, f"{options.name}-{os.getpid()}")
    node = node_class()(
        RayParams(
            node_ip_address="127.0.0.1",
            gcs_address=options.address,
            num_gpus=options.gpus,
            num_cpus=options.cpus,
            memory=options.memory_mib * 1024 * 1024 or None,
            labels=options.labels,
            plasma_store_socket_name=f"{sockets}.store",
            raylet_socket_name=f"{sockets}.raylet",
            object_store_memory=OBJECT_STORE_BYTES,
            node_manager_port=0,
            min_worker_port=0,
            max_worker_port=0,
            dashboard_agent_listen_port=0,
            runtime_env_agent_port=free_port(),
            include_log_monitor=False,
        ),
        head=False,
        shutdown_at_exit=True,
        spawn_reaper=True,
    )
    return watch(node)


def _await_head(address: str) -> None:
    """Until the head listens: both may be started at once. Raises OSError when it does not in time."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + _HEAD_S
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=1.0).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def main() -> int:
    parser = argparse.ArgumentParser(prog="moorage_local.ray_nodes", description="Run a further Ray node on loopback.")
    for name in ("--address", "--temp-dir", "--name"):
        parser.add_argument(name, required=True)
    for name in ("--gpus", "--cpus", "--memory-mib"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--labels", type=json.loads, default={})
    return run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
