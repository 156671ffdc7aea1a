"""`python -m moorage_registry`: serve the registry until told to stop."""

import asyncio

import uvloop
from fastapi import FastAPI

from moorage_common import logs
from moorage_common.app import ops_app, serve
from moorage_registry.app import create_app
from moorage_registry.deps import Registry
from moorage_registry.metrics import Metrics
from moorage_registry.settings import Settings


async def run(settings: Settings) -> None:
    metrics = Metrics()
    app = create_app(settings, metrics)

    async def not_ready() -> str | None:
        registry = _registry(app)
        return await registry.not_ready() if registry is not None else "the registry is starting"

    def on_stop() -> None:
        registry = _registry(app)
        if registry is not None:
            registry.commits.stop()

    await serve(app, ops_app(metrics.registry, not_ready), settings, on_stop=on_stop)


def _registry(app: FastAPI) -> Registry | None:
    found: Registry | None = getattr(app.state, "registry", None)
    return found


def main() -> None:
    settings = Settings()
    logs.configure("registry", level=settings.log_level, log_format=settings.log_format)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(settings))


if __name__ == "__main__":
    main()
