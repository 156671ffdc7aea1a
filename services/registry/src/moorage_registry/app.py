"""The registry's HTTP interface, put together."""

import contextlib
from collections.abc import AsyncIterator

from fastapi import APIRouter, FastAPI

from moorage_common.access import check_rules
from moorage_common.app import install_error_handlers
from moorage_common.clock import Clock, wall_clock
from moorage_common.openapi import openapi_router
from moorage_registry.audit.endpoints import router as audit
from moorage_registry.catalog.artifact_endpoints import router as artifacts
from moorage_registry.catalog.endpoints import router as catalog
from moorage_registry.clusters.endpoints import router as clusters
from moorage_registry.deployments.endpoints import router as deployments
from moorage_registry.deployments.metrics_endpoints import router as tenant_metrics
from moorage_registry.deps import running
from moorage_registry.events.endpoints import router as events
from moorage_registry.feedback.endpoints import router as feedback
from moorage_registry.keys.endpoints import router as keys
from moorage_registry.keys.internal_endpoints import router as internal_keys
from moorage_registry.metrics import Metrics, RequestMetrics
from moorage_registry.people.endpoints import router as people
from moorage_registry.rings.endpoints import router as rings
from moorage_registry.rollouts.endpoints import router as rollouts
from moorage_registry.settings import Settings
from moorage_registry.tenants.endpoints import router as tenants
from moorage_registry.tenants.limits_endpoints import router as limits
from moorage_registry.usage.endpoints import router as usage

JSON_MAX_BYTES = 1024 * 1024
_JSON_ROUTERS: tuple[APIRouter, ...] = (
    tenants, limits, keys, people, catalog, deployments, rollouts, feedback, rings, clusters, usage, events, audit,
    tenant_metrics, internal_keys,
)  # fmt: skip


def create_app(settings: Settings, metrics: Metrics, clock: Clock = wall_clock) -> FastAPI:
    """The app; its lifespan builds the registry. Raises RuntimeError when a route has no access rule."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with running(settings, metrics, clock) as registry:
            app.state.registry = registry
            yield

    app = FastAPI(title="Moorage registry", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    install_error_handlers(app)
    for router in _JSON_ROUTERS:
        app.include_router(router, prefix="/v1", max_body_size=JSON_MAX_BYTES)
    app.include_router(artifacts, prefix="/v1")
    app.include_router(openapi_router(app))
    check_rules(app.routes)
    app.add_middleware(RequestMetrics, metrics=metrics)
    return app
