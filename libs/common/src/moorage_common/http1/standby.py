"""Taking connections that nobody takes: those of processes beside this one that are dead, draining or stuck.

Each of several processes has a listening socket of its own on the same port (SO_REUSEPORT), so the kernel shares
connections evenly; but what it gives to a process that is away would wait for that one's return. Here the others look
now and then whether something waits there. docs/decisions/0011 has the figures.
"""

import asyncio
import errno
import socket
from collections.abc import Callable, Sequence

import structlog

log = structlog.get_logger()

LOOK_S = 0.05
LOOK_AGAIN_S = 0.005
"""After a look that found something."""
AT_A_LOOK = 16
"""Of one socket, so that the processes that are left share what waits."""
_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Standby:
    """Looks at the others' listening sockets, which are its own duplicates, until closed."""

    def __init__(self, listeners: Sequence[socket.socket], protocol: Callable[[], asyncio.Protocol]) -> None:
        """`protocol` makes one for each connection."""
        self._listeners = listeners
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[object]] = set()
        for listener in listeners:
            listener.setblocking(False)
        self._next = self._loop.call_later(LOOK_S, self._look)

    def close(self) -> None:
        """Take no more connections; those taken live on."""
        self._next.cancel()
        for listener in self._listeners:
            listener.close()

    def _look(self) -> None:
        found = [connection for listener in self._listeners for connection in _waiting(listener)]
        for connection in found:
            opening = self._loop.create_task(self._open(connection))
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)
        self._next = self._loop.call_later(LOOK_AGAIN_S if found else LOOK_S, self._look)

    async def _open(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection)
        except OSError as error:
            log.debug("connection lost before it was taken", error=str(error))
            connection.close()


def _waiting(listener: socket.socket) -> list[socket.socket]:
    """Connections that wait there, at most 16."""
    found: list[socket.socket] = []
    while len(found) < AT_A_LOOK:
        try:
            connection, _address = listener.accept()
        except ConnectionAbortedError:
            continue
        except (BlockingIOError, InterruptedError):
            break
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            log.warning("no room for another connection", error=str(error))
            break
        connection.setblocking(False)
        found.append(connection)
    return found
