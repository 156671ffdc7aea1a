"""Ports of one platform: in a row from a base, or free ones."""

import contextlib
import random
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field, fields

from moorage_common.embedded import HOST
from moorage_local.options import StartFailed

_FREE_RANGE = range(20_000, 32_000)
"""Below the ports that systems give to outgoing connections, above those that Ray's workers take."""


@dataclass(frozen=True)
class Ports:
    """In the order in which they follow the base. `scheduler` is its operations port: it serves nothing else.

    Attributes:
        router: on which all routers answer.
        router_ops: of the first router; `more_router_ops` those of the others, after all else.
    """

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
    more_router_ops: tuple[int, ...] = field(default=(), kw_only=True)

    @property
    def all_router_ops(self) -> tuple[int, ...]:
        """By the routers' numbers."""
        return (self.router_ops, *self.more_router_ops)


_NAMES = [f.name for f in fields(Ports) if not f.kw_only]


def choose(base: int, routers: int = 1) -> Ports:
    """Ten ports from `base` up and one for each further router, or as many free ones for 0.

    Raises:
        StartFailed: a port is taken; names it and the ways out.
    """
    names = [*_NAMES, *(f"router-{number}'s operations" for number in range(1, routers))]
    numbers = list(range(base, base + len(names))) if base else _free(len(names))
    for name, port in zip(names, numbers, strict=True) if base else ():
        if not _is_free(port):
            message = (
                f"port {port} (for {name}) is taken: end what listens there (lsof -i :{port}), "
                f"or choose others with --port BASE, or let --port 0 find free ones"
            )
            raise StartFailed(message)
    own = len(_NAMES)
    return Ports(*numbers[:own], more_router_ops=tuple(numbers[own:]))


@contextlib.contextmanager
def listening(port: int, count: int = 1) -> Iterator[list[socket.socket]]:
    """Listening sockets on one port of loopback, between which the kernel shares connections evenly.

    The launcher keeps them, so that connections wait while no server takes them.
    """
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if count > 1:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind((HOST, port))
        for listener in listeners:
            listener.listen(2048)
        yield listeners


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
