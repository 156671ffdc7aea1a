"""`python -m moorage_router`."""

import socket
from typing import Any

import uvloop

from moorage_common import logs
from moorage_common.app import serve
from moorage_router.app import RouterApp
from moorage_router.protocol import RouterProtocol
from moorage_router.settings import RouterSettings


def main() -> None:
    settings = RouterSettings()
    logs.configure("router", level=settings.log_level, log_format=settings.log_format)
    app = RouterApp(settings)
    listener = socket.socket(fileno=settings.listen_fd) if settings.listen_fd is not None else None
    options: dict[str, Any] = {"http": RouterProtocol, "ws": "none", "proxy_headers": False, "timeout_keep_alive": 75}
    uvloop.run(serve(app, app.operations(), settings, listener=listener, **options))


if __name__ == "__main__":
    main()
