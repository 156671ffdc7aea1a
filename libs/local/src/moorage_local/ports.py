"""Ports of one platform: in a row from a base, or free ones."""

import random
import socket
from dataclasses import asdict, dataclass, fields

from moorage_common.embedded import HOST
from moorage_local.options import StartFailed

_FREE_RANGE = range(20_000, 32_000)
"""Below the ports that systems give to outgoing connections, above those that Ray's workers take."""


@dataclass(frozen=True)
class Ports:
    """In the order in which they follow the base. `scheduler` is its operations port: it serves nothing else."""

    router: int
    registry: int
    feature_proxy: int
    scheduler: int
    nats: int
    redis: int
    ray: int
    router_ops: int
    registry_ops: int
    feature_proxy_ops: int


_NAMES = [f.name for f in fields(Ports)]


def choose(base: int) -> Ports:
    """Ten ports from `base` up, or ten free ones for 0.

    Raises:
        StartFailed: a port is taken; names it and the ways out.
    """
    if base == 0:
        return Ports(*_free(len(_NAMES)))
    ports = Ports(*range(base, base + len(_NAMES)))
    for name, port in asdict(ports).items():
        if not _is_free(port):
            message = (
                f"port {port} (for {name}) is taken: end what listens there (lsof -i :{port}), "
                f"or choose others with --port BASE, or let --port 0 find free ones"
            )
            raise StartFailed(message)
    return ports


def listen(port: int) -> socket.socket:
    """A listening socket on loopback, kept by the launcher so that connections wait while their server restarts."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((HOST, port))
    listener.listen(2048)
    return listener


def _free(count: int) -> list[int]:
    tried = random.sample(_FREE_RANGE, len(_FREE_RANGE))
    found = [port for port in tried[: 50 * count] if _is_free(port)]
    if len(found) < count:
        message = f"there are no {count} free ports between {_FREE_RANGE.start} and {_FREE_RANGE.stop}"
        raise StartFailed(message)
    return found[:count]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
