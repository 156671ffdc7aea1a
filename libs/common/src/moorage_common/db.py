"""The database of a service: SQLAlchemy async on SQLite or Postgres, one transaction a request or message.

SQLite runs in WAL mode with foreign keys and a busy timeout. Write sessions start with `BEGIN IMMEDIATE`: SQLite's
deferred transactions fail with "database is locked" on read-then-write, whatever the busy timeout says.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, cast

from sqlalchemy import JSON, BigInteger, Connection, Double, Engine, Integer, MetaData, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase

BUSY_TIMEOUT_MS = 15_000
_WRITES = "moorage_writes"

RowNumber = BigInteger().with_variant(Integer, "sqlite")
"""Type of a generated primary key: SQLite numbers rows only where the column is an INTEGER."""


class Base(DeclarativeBase):
    """Parent of every table. Times are seconds since 1970."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {
        int: BigInteger,
        float: Double,
        dict[str, Any]: JSON(none_as_null=True),
        dict[str, str]: JSON,
        list[str]: JSON,
        list[dict[str, Any]]: JSON,
    }


@dataclass(frozen=True)
class Database:
    """An engine and its two kinds of session. A session takes a connection at its first statement, not before."""

    engine: AsyncEngine
    _open: set[AsyncSession] = field(default_factory=set)
    _idle: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    def at(cls, url: str) -> "Database":
        """The database at a SQLAlchemy URL, `sqlite+aiosqlite:///...` or `postgresql+asyncpg://...`."""
        # An error is logged with its statement, and what is written is people's: labels, answers, digests of keys.
        engine = create_async_engine(
            url, pool_size=10, max_overflow=10, pool_pre_ping=not url.startswith("sqlite"), hide_parameters=True
        )
        if engine.dialect.name == "sqlite":
            _prepare_sqlite(engine.sync_engine)
        return cls(engine)

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """A session that sees one state of the database and changes nothing."""
        async with self._session(self.engine) as session:
            yield session

    @contextlib.asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        """A session that is committed at the end of the block, or rolled back when the block raises."""
        writing = self.engine.execution_options(**{_WRITES: True})
        async with self._session(writing) as session:
            yield session
            await session.commit()

    @contextlib.asynccontextmanager
    async def _session(self, engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
        async with AsyncSession(engine, expire_on_commit=False) as session:
            self._open.add(session)
            self._idle.clear()
            try:
                yield session
            finally:
                self._open.discard(session)
                if not self._open:
                    self._idle.set()

    async def settle(self, timeout_s: float = 2.0) -> None:
        """Until no session is open, so that what is cancelled next is not cancelled inside a statement."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._open:
                    await self._idle.wait()

    async def close(self) -> None:
        await self.engine.dispose()


def insert_into(session: AsyncSession, table: type[Base]) -> postgresql.Insert:
    """An INSERT that knows `ON CONFLICT`, in the dialect of the session (SQLite's and Postgres's are spelled alike)."""
    if session.get_bind().dialect.name == "sqlite":
        return cast("postgresql.Insert", sqlite.insert(table))
    return postgresql.insert(table)


def _prepare_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "foreign_keys=ON", f"busy_timeout={BUSY_TIMEOUT_MS}", "synchronous=FULL"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(_WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
