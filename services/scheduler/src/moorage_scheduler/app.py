"""The scheduler's HTTP side: the operations port and a read-only view of who sits where."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import structlog
from fastapi import FastAPI

from moorage_common.app import install_error_handlers, ops_app
from moorage_scheduler import deps as wiring
from moorage_scheduler.metrics import SchedulerMetrics
from moorage_scheduler.placements import placements
from moorage_scheduler.settings import Settings

log = structlog.get_logger()


def create_app(settings: Settings, host_class: type[Any]) -> tuple[FastAPI, FastAPI]:
    """The main app, whose lifespan runs the scheduler, and the operations app; both serve `GET /v1/placements`.

    `state.failed` of the main app says that it stopped because the scheduler could not go on.
    """
    metrics = SchedulerMetrics()
    held: list[wiring.Deps] = []

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        built = wiring.build(settings, metrics, host_class)
        held.append(built)
        async with wiring.running(built) as work:
            work.add_done_callback(ended)
            yield

    def ended(work: asyncio.Task[None]) -> None:
        """Without Ray or the lease nothing can be scheduled, and a driver cannot join a new cluster: end, to be started
        anew."""
        if not work.cancelled() and (error := work.exception()) is not None:
            log.critical("the scheduler stops", exc_info=error)
            app.state.failed = True
            os.kill(os.getpid(), signal.SIGTERM)

    async def not_ready() -> str | None:
        return await held[0].not_ready() if held else "starting"

    async def view() -> dict[str, Any]:
        if not held:
            return {"role": "candidate", "leader": "", "fencing": 0, "nodes": [], "queued": []}
        one = held[0].leadership
        role = {"role": one.role, "leader": one.leader, "fencing": one.fencing}
        return {**role, **placements(held[0].reconciler)}

    app = FastAPI(title="Moorage scheduler", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.failed = False
    operations = ops_app(metrics.registry, not_ready)
    for one in (app, operations):
        install_error_handlers(one)
        one.add_api_route("/v1/placements", view, methods=["GET"])
    return app, operations
