"""The Ray head of a one-machine install: every port on loopback, no side processes that nothing here uses.

`ray start --block` would do, but it takes twice as long: it imports the whole of Ray's command line, then starts an
autoscaler monitor, a client server, a log monitor and a dashboard, on all interfaces. This module makes the same node
with the same classes (`ray._private.node`, as `ray.cluster_utils` does) and leaves those out. On Ray 2.60 and two
cores: 3 s against 15 to 20 s, five processes against eight.
"""

import argparse
import importlib
import socket
import sys
import time
from typing import Any

RAY_TEMP_DIR_MAX = 40
"""Characters. Ray adds about 65 for its sockets, and a Unix socket's path has at most 107."""

LABEL_NODE_NAME = "moorage.io/node"
"""The scheduler calls a node by it, and so finds one again that was restarted."""

OBJECT_STORE_BYTES = 100 * 1024 * 1024
_WATCH_S = 0.5


def environment(token: str) -> dict[str, str]:
    """Variables that the head and every driver of it need alike.

    Args:
        token: the cluster's shared secret; Ray refuses calls without it.
    """
    return {
        # With Ray's switch for single-machine systems off, "this machine" is 127.0.0.1 instead of its outward
        # address, and gcs_server, raylet and workers then listen on loopback alone.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
        # Else every SIGTERM is answered with a stack trace.
        "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",
        # Ray's workers run at niceness 15, behind whatever else runs here; replicas are not background work.
        "RAY_worker_niceness": "0",
        # Under `uv run`, Ray would otherwise rebuild the environment for each worker.
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        # The launcher ends hosts itself; waiting for them to leave would hold up a Ctrl-C for half a minute.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        # A replica without a GPU must not see one.
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
        # A machine that is gone is noticed in 3 s instead of 16; one that only answers slowly still has 10 s an answer.
        "RAY_health_check_period_ms": "500",
    }


def start_command(python_bin: str, port: int, gpus: int, cpus: int, temp_dir: str, *, name: str = "") -> list[str]:
    """The command that runs a head in the foreground until SIGTERM; it exits 1 when a process of Ray dies.

    It prints the line `ready` on standard output once work can be scheduled. Kill it any way you like: the kernel ends
    its children with it.

    Args:
        python_bin: interpreter of the environment that has Ray and this package.
        port: of Ray's control service (GCS), on 127.0.0.1.
        gpus: logical GPUs to offer.
        cpus: logical CPUs to offer.
        temp_dir: for logs and sockets, at most 40 characters long.
        name: of the node; empty where there is only this one.

    Raises:
        ValueError: `temp_dir` is too long for Unix sockets.
    """
    if len(temp_dir) > RAY_TEMP_DIR_MAX:
        message = f"Ray's directory may have at most {RAY_TEMP_DIR_MAX} characters, {temp_dir} has {len(temp_dir)}"
        raise ValueError(message)
    options = {"--port": str(port), "--gpus": str(gpus), "--cpus": str(cpus), "--temp-dir": temp_dir, "--name": name}
    flat = [part for option in options.items() for part in option]
    return [python_bin, "-m", "moorage_local.ray_head", *flat]


def run(port: int, gpus: int, cpus: int, temp_dir: str, name: str) -> int:
    """Run the head until a signal ends this process; the exit code when one of Ray's processes died."""
    from ray._private.parameter import RayParams  # noqa: PLC0415 - two seconds of import, not for `start_command`

    # Ray always starts a dashboard process unless the port it was given is taken; so it is given one that is, and
    # says so in an error line that means nothing here.
    with socket.create_server(("127.0.0.1", 0)) as taken:
        node = node_class()(
            RayParams(
                node_ip_address="127.0.0.1",
                gcs_server_port=port,
                num_gpus=gpus,
                num_cpus=cpus,
                labels=named(name),
                temp_dir=temp_dir,
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                dashboard_host="127.0.0.1",
                dashboard_port=taken.getsockname()[1],
                dashboard_agent_listen_port=0,
                runtime_env_agent_port=free_port(),
                include_log_monitor=False,
                no_monitor=True,
            ),
            head=True,
            shutdown_at_exit=True,
            spawn_reaper=True,
        )
    return watch(node)


def named(name: str) -> dict[str, str]:
    """The label of a node's name."""
    return {LABEL_NODE_NAME: name} if name else {}


def watch(node: Any) -> int:
    """Say `ready`, and wait until one of the node's processes dies; the exit code then."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while not (dead := node.dead_processes()):
        time.sleep(_WATCH_S)
    sys.stderr.write(f"Ray's {', '.join(name for name, _process in dead)} ended\n")
    node.kill_all_processes(check_alive=False, allow_graceful=False)
    return 1


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def node_class() -> Any:
    """Ray's node, whose raylet does not wait for its agents.

    A raylet waits at most 15 s for each port of its two agents and dies when a busy machine takes longer. So the files
    that it waits for are there first: no metrics and no HTTP of the agent (-1, nobody asks for them), and the port that
    the runtime environment agent is told to take.
    """
    _raylet = importlib.import_module("ray._raylet")  # compiled, without types
    from ray._private.node import Node  # noqa: PLC0415

    class QuickNode(Node):  # type: ignore[misc]
        def start_raylet(self, *arguments: Any, **options: Any) -> None:
            ports = {
                _raylet.METRICS_AGENT_PORT_NAME: -1,
                _raylet.METRICS_EXPORT_PORT_NAME: -1,
                _raylet.DASHBOARD_AGENT_LISTEN_PORT_NAME: -1,
                _raylet.RUNTIME_ENV_AGENT_PORT_NAME: self._ray_params.runtime_env_agent_port,
            }
            for name, port in ports.items():
                _raylet.persist_port(self._session_dir, self._node_id, name, port)
            super().start_raylet(*arguments, **options)

    return QuickNode


def main() -> int:
    parser = argparse.ArgumentParser(prog="moorage_local.ray_head", description="Run a Ray head on loopback.")
    for name in ("--port", "--gpus", "--cpus"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--temp-dir", required=True)
    parser.add_argument("--name", default="")
    options = parser.parse_args()
    return run(options.port, options.gpus, options.cpus, options.temp_dir, options.name)


if __name__ == "__main__":
    sys.exit(main())
