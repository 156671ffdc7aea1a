"""structlog for every process: JSON lines outside a terminal, never a secret."""

import logging
import re
import sys
from typing import Any

import structlog

_KEY = re.compile(r"(mrg_(?:live|test)_[0-9A-Za-z]{12})[0-9A-Za-z]+")
_PASSWORD = re.compile(r"(?<=://)[^/\s:@\"']*:[^/\s@\"']+(?=@)")


def redact(text: str) -> str:
    """`text` without secrets: API keys shortened to their kid, user and password taken out of URLs."""
    return _PASSWORD.sub("[redacted]", _KEY.sub(r"\1[redacted]", text))


def _redact(_logger: Any, _method: str, line: Any) -> str:
    """Last of the chain, so that nothing nested, formatted or raised gets round it."""
    return redact(str(line))


def configure(service: str, *, level: str = "info", log_format: str = "auto") -> None:
    """Route structlog and the standard library's logging to standard error, each line with `service`."""
    as_json = log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer, _redact],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("uvicorn.access", "aiosqlite", "alembic", "httpx", "nats"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
