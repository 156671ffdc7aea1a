"""Running a service: one error handler, the operations port, and two uvicorn servers in one event loop."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import structlog
import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.routing import APIRoute, iter_route_contexts
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from moorage_common.errors import MoorageError
from moorage_common.settings import ServiceSettings

log = structlog.get_logger()

ReadyCheck = Callable[[], Awaitable[str | None]]
"""Why the service is not ready yet, or None when it is."""


def problem(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Response:
    """The body of every refusal outside /v2: `{"error": <what to do>, "code": <stable code>}`."""
    return JSONResponse({"error": message, "code": code}, status_code=status, headers=headers)


def install_error_handlers(app: FastAPI) -> None:
    """Turn the error tree, validation errors and the unforeseen into answers; internals go to the log alone."""

    async def on_moorage_error(_request: Request, error: Exception) -> Response:
        assert isinstance(error, MoorageError)  # noqa: S101 - registered for this type
        if error.status >= 500 or error.detail:
            log.warning("refused", code=error.code, status=error.status, detail=error.detail)
        return problem(error.status, error.code, error.message, error.headers)

    async def on_invalid(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this type
        places = "; ".join(f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors()[:5])
        return problem(422, "invalid_request", f"the request does not have the expected form: {places}")

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - registered for this type
        codes = {404: "not_found", 405: "method_not_allowed"}
        headers = {name.lower(): value for name, value in (error.headers or {}).items()}
        if error.status_code == 405:
            headers["allow"] = _allowed(app, request.url.path)
        return problem(error.status_code, codes.get(error.status_code, "http_error"), str(error.detail), headers)

    async def on_unforeseen(_request: Request, error: Exception) -> Response:
        log.error("unforeseen error", exc_info=error)
        return problem(500, "internal", "something failed on our side; try again, and report it if it goes on")

    app.add_exception_handler(MoorageError, on_moorage_error)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(Exception, on_unforeseen)


def _allowed(app: FastAPI, path: str) -> str:
    """All methods of a path (RFC 9110, 15.5.6): the framework names those of the first route that it finds alone."""
    methods = {
        method
        for context in iter_route_contexts(app.routes)
        if isinstance(route := context.original_route, APIRoute) and compile_path(str(context.path))[0].match(path)
        for method in route.methods or ()
    }
    return ", ".join(sorted(methods))


def ops_app(registry: CollectorRegistry, ready: ReadyCheck) -> FastAPI:
    """`/healthz` (the process lives), `/readyz` (it can serve, 503 with the reason if not), `/metrics`."""
    app = FastAPI(title="Moorage operations", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/healthz")
    async def healthz() -> dict[str, bool]:
        return {"live": True}

    @app.get("/readyz")
    async def readyz() -> Response:
        reason = await ready()
        if reason is None:
            return JSONResponse({"ready": True})
        return problem(503, "not_ready", reason, {"retry-after": "1"})

    @app.get("/metrics")
    async def metrics() -> Response:
        return PlainTextResponse(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return app


class _Server(uvicorn.Server):
    """uvicorn with its signal handling left to `serve`, which stops both servers together."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _server(app: Any, host: str, port: int, **options: Any) -> _Server:
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=10,
        server_header=False,
        proxy_headers=False,  # whose word on a caller's address is taken, trusted_proxies says
        **options,
    )
    return _Server(config)


@contextlib.asynccontextmanager
async def told_to_stop() -> AsyncIterator[asyncio.Event]:
    """An event that SIGTERM or SIGINT sets."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    yield stop


@contextlib.asynccontextmanager
async def serving_operations(operations: FastAPI, settings: ServiceSettings) -> AsyncIterator[None]:
    """Serve the operations port while the block runs."""
    side = _server(operations, settings.ops_host, settings.ops_port, lifespan="off")
    task = asyncio.create_task(side.serve(), name="operations")
    try:
        yield
    finally:
        side.should_exit = True
        await task


async def serve(
    app: Any,
    operations: FastAPI,
    settings: ServiceSettings,
    *,
    on_stop: Callable[[], None] | None = None,
    **options: Any,
) -> None:
    """Serve `app` and the operations port until SIGTERM or SIGINT, then drain both.

    Args:
        on_stop: called once told to stop, before draining: endless answers should end.
        options: of uvicorn's Config, for `app` alone.
    """
    main = _server(app, settings.host, settings.port, lifespan="on", **options)
    side = _server(operations, settings.ops_host, settings.ops_port, lifespan="off")
    loop = asyncio.get_running_loop()

    def stop() -> None:
        main.should_exit = True
        side.should_exit = True
        if on_stop is not None:
            on_stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    async with asyncio.TaskGroup() as group:
        main_task = group.create_task(main.serve())
        group.create_task(side.serve())
        main_task.add_done_callback(lambda _task: stop())
