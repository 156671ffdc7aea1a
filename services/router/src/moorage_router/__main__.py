"""`python -m moorage_router`."""

import gc
import resource
import socket

import uvloop

from moorage_common import logs
from moorage_common.memory import keep_buffers
from moorage_router.app import serve
from moorage_router.settings import RouterSettings


def main() -> None:
    settings = RouterSettings()
    logs.configure("router", level=settings.log_level, log_format=settings.log_format)
    keep_buffers()
    # What was imported stays; requests leave no cycles, so looking for them often only costs time.
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    # A connection is an open file; systems begin with a thousand and let a process take more.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with _listener(settings) as listener:
        uvloop.run(serve(settings, listener))


def _listener(settings: RouterSettings) -> socket.socket:
    if settings.listen_fd is not None:
        return socket.socket(fileno=settings.listen_fd)
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    return socket.create_server((settings.host, settings.port), family=family, backlog=2048)


if __name__ == "__main__":
    main()
