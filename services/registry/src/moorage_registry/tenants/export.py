"""All that a tenant has, as a tar stream of JSON lines, CSV and artifacts, in bounded memory.

Rows are read a page at a time, each page a member of its own, each in a transaction of its own: an export takes minutes
and holds nobody up. The last member, `complete.json`, says how many there are: without it the archive was broken off.
"""

import asyncio
import csv
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import ColumnElement, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from moorage_common.clock import Clock, rfc3339
from moorage_common.contracts.names import TenantId
from moorage_common.db import Base, Database
from moorage_registry.audit.tables import AuditRow
from moorage_registry.catalog.blobs import BlobStore
from moorage_registry.catalog.tables import ArtifactRow, ModelRow, VersionRow
from moorage_registry.deployments.service import DeploymentReader
from moorage_registry.deployments.tables import DeploymentRow
from moorage_registry.keys.tables import KeyRow
from moorage_registry.people.tables import MembershipRow
from moorage_registry.rings.tables import RingRow
from moorage_registry.tenants import tar
from moorage_registry.tenants.repository import TenantRepository
from moorage_registry.tenants.service import existing, tenant_of
from moorage_registry.usage.tables import UsageSumRow

PAGE = 500
_CHUNK_BYTES = 256 * 1024
_FORM = 1

_SECRET = frozenset({"digest", "pepper_version", "run_id"})
"""Columns that no export has."""
_LINES: dict[str, type[Base]] = {
    "models": ModelRow, "versions": VersionRow, "rings": RingRow, "keys": KeyRow, "members": MembershipRow,
    "audit": AuditRow,
}  # fmt: skip
"""Members of JSON lines, and the rows that they hold."""


@dataclass
class Export:
    """One export of one tenant."""

    db: Database
    blobs: BlobStore
    tenant: TenantId
    clock: Clock
    _at: float = field(init=False)
    _members: int = 0

    def __post_init__(self) -> None:
        self._at = self.clock()

    async def stream(self) -> AsyncIterator[bytes]:
        """The archive. Raises what reading raises, in which case it has no end."""
        async with self.db.read() as session:
            row = await existing(TenantRepository(session), self.tenant)
            told = tenant_of(row).model_dump(mode="json")
        yield self._member("tenant.json", _json({"form": _FORM, "exported_at": rfc3339(self._at), **told}))
        for name, table in _LINES.items():
            async for page in self._pages(name, "jsonl", table, _lines):
                yield page
        async for page in self._pages("deployments", "jsonl", DeploymentRow, self._deployments):
            yield page
        async for page in self._pages("usage", "csv", UsageSumRow, _csv):
            yield page
        async for part in self._artifacts():
            yield part
        yield self._member("complete.json", _json({"members": self._members})) + tar.END

    def _member(self, name: str, content: bytes) -> bytes:
        self._members += 1
        return tar.header(self._path(name), len(content), self._at) + content + tar.padding(len(content))

    def _path(self, name: str) -> str:
        return f"{self.tenant}/{name}"

    async def _pages(
        self, name: str, ending: str, table: type[Base], told: Callable[[AsyncSession, Sequence[Any]], Awaitable[bytes]]
    ) -> AsyncIterator[bytes]:
        """`<name>/000001.<ending>` and on, a page of rows each, in the order of their keys."""
        async for number, session, rows in self._rows(table):
            yield self._member(f"{name}/{number:06}.{ending}", await told(session, rows))

    async def _rows(self, table: type[Base]) -> AsyncIterator[tuple[int, AsyncSession, Sequence[Any]]]:
        keys = list(table.__table__.primary_key)
        after: ColumnElement[bool] | None = None
        number = 0
        while True:
            query = select(table).where(table.__table__.c.tenant == self.tenant).order_by(*keys).limit(PAGE)
            async with self.db.read() as session:
                rows = (await session.scalars(query if after is None else query.where(after))).all()
                if not rows:
                    return
                number += 1
                yield number, session, rows
            after = tuple_(*keys) > tuple_(*(getattr(rows[-1], key.name) for key in keys))

    async def _deployments(self, session: AsyncSession, rows: Sequence[Any]) -> bytes:
        reader = DeploymentReader(session, self.tenant)
        live = [await reader.told(row) for row in rows if not row.deleted]
        return b"".join(_json(one.model_dump(mode="json")) for one in live)

    async def _artifacts(self) -> AsyncIterator[bytes]:
        async for _number, _session, rows in self._rows(ArtifactRow):
            for row in rows:
                async for part in self._artifact(row.digest):
                    yield part

    async def _artifact(self, digest: str) -> AsyncIterator[bytes]:
        path = self.blobs.path(self.tenant, digest)
        size = (await asyncio.to_thread(path.stat)).st_size
        self._members += 1
        yield tar.header(self._path(f"artifacts/{digest.removeprefix('sha256:')}"), size, self._at)
        async for chunk in _contents(path, size):
            yield chunk
        yield tar.padding(size)


async def _contents(path: Path, size: int) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        left = size
        while left > 0:
            chunk = await asyncio.to_thread(file.read, min(_CHUNK_BYTES, left))
            if not chunk:
                message = f"{path.name} is shorter than it was"
                raise OSError(message)
            left -= len(chunk)
            yield chunk


def _json(value: Any) -> bytes:
    return orjson.dumps(value) + b"\n"


def _columns(row: Any) -> dict[str, Any]:
    return {column.key: getattr(row, column.key) for column in row.__table__.columns if column.key not in _SECRET}


async def _lines(_session: AsyncSession, rows: Sequence[Any]) -> bytes:
    return b"".join(_json(_columns(row)) for row in rows)


async def _csv(_session: AsyncSession, rows: Sequence[Any]) -> bytes:
    """RFC 4180, with a header line."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=[column.key for column in UsageSumRow.__table__.columns])
    writer.writeheader()
    writer.writerows({**_columns(row), "hour": rfc3339(float(row.hour))} for row in rows)
    return text.getvalue().encode()
