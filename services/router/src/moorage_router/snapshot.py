"""The tables on disk, so that a router that starts serves before it has reached the bus.

The file holds key digests and host tokens, never a key in clear, and only its owner may read it.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import orjson
import structlog
from pydantic import ValidationError

from moorage_common.contracts.versioned import Versioned

log = structlog.get_logger()

Buckets = dict[str, dict[str, Versioned]]
"""Bucket -> key -> entry."""


def read(path: Path) -> Buckets:
    """What the file holds; nothing when it is absent or unreadable."""
    try:
        raw = orjson.loads(path.read_bytes())
        return {
            bucket: {key: Versioned.model_validate(entry) for key, entry in entries.items()}
            for bucket, entries in raw.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, ValidationError, AttributeError) as error:
        log.warning("snapshot ignored", error=str(error)[:200])
        return {}


def write(path: Path, buckets: Mapping[str, Mapping[str, Versioned]]) -> None:
    """Replace the file as a whole; a reader sees the old one or the new. Raises OSError."""
    content = orjson.dumps(
        {
            bucket: {key: {"epoch": e.epoch, "version": e.version, "value": e.value} for key, e in entries.items()}
            for bucket, entries in buckets.items()
        }
    )
    fresh = path.with_suffix(".tmp")
    file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(file, "wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    fresh.replace(path)
