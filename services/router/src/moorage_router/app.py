"""The router as a whole: its dependencies, its server, its operations port, until it is told to end."""

import asyncio
import contextlib
import socket

from fastapi import FastAPI

from moorage_common.app import ops_app, serving_operations, told_to_stop
from moorage_common.http1 import Server
from moorage_router.deps import Deps, build, running
from moorage_router.metrics import RouterMetrics
from moorage_router.settings import RouterSettings


class RouterApp:
    """`deps` and `server` are there once it runs."""

    def __init__(self, settings: RouterSettings) -> None:
        self._settings = settings
        self.metrics = RouterMetrics()
        self.deps: Deps | None = None
        self.server: Server | None = None
        self._draining = False

    async def run(self, listener: socket.socket, stop: asyncio.Event) -> None:
        """Serve on `listener` until `stop` is set, then drain: nothing that was asked is lost."""
        self.deps = build(self._settings, self.metrics)
        async with running(self.deps):
            self.server = Server(self.deps.endpoints)
            with contextlib.ExitStack() as inherited:
                fds = self._settings.listen_fds_of_others
                others = [inherited.enter_context(socket.socket(fileno=fd)) for fd in fds]
                await self.server.start(listener, others)
            await stop.wait()
            self._draining = True
            await self.server.drain()

    def operations(self) -> FastAPI:
        """The operations port."""

        async def ready() -> str | None:
            if self._draining:
                return "ending"
            return self.deps.not_ready() if self.deps is not None else "starting"

        return ops_app(self.metrics.registry, ready)


async def serve(settings: RouterSettings, listener: socket.socket) -> None:
    """Run a router and its operations port until SIGTERM or SIGINT."""
    app = RouterApp(settings)
    async with told_to_stop() as stop, serving_operations(app.operations(), settings):
        await app.run(listener, stop)
