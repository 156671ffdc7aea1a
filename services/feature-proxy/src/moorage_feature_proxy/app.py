"""The ASGI application."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from moorage_common.access import check_rules
from moorage_common.app import install_error_handlers, ops_app
from moorage_common.openapi import openapi_router
from moorage_feature_proxy import deps
from moorage_feature_proxy.endpoints import router
from moorage_feature_proxy.metrics import Metrics
from moorage_feature_proxy.settings import Settings


def create_app(settings: Settings) -> tuple[FastAPI, FastAPI]:
    """The service and its operations app. Raises RuntimeError when a route has no access rule."""
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with deps.running(settings, metrics) as built:
            app.state.deps = built
            yield

    app = FastAPI(title="Moorage features", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    install_error_handlers(app)
    app.include_router(router)
    app.include_router(openapi_router(app))
    check_rules(app.routes)

    async def ready() -> str | None:
        """Without keys too: routers' lookups need none, so an outage of the bus must not take features from them."""
        return None if hasattr(app.state, "deps") else "starting"

    return app, ops_app(metrics.series.registry, ready)
