"""The router as an ASGI application: lifespan, then the door."""

import contextlib

from fastapi import FastAPI

from moorage_common.app import ops_app
from moorage_router.deps import Deps, build, running
from moorage_router.endpoints import Message, Receive, Send
from moorage_router.metrics import RouterMetrics
from moorage_router.settings import RouterSettings


class RouterApp:
    """Builds its dependencies in the lifespan; inference takes no framework on its way."""

    def __init__(self, settings: RouterSettings) -> None:
        self._settings = settings
        self.metrics = RouterMetrics()
        self.deps: Deps | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self.deps is not None:
            await self.deps.endpoints(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        async with contextlib.AsyncExitStack() as stack:
            try:
                self.deps = build(self._settings, self.metrics)
                await stack.enter_async_context(running(self.deps))
            except Exception as error:
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                raise
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    def operations(self) -> FastAPI:
        """The operations port."""

        async def ready() -> str | None:
            return self.deps.not_ready() if self.deps is not None else "starting"

        return ops_app(self.metrics.registry, ready)
