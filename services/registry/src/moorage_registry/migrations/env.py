"""Run by alembic."""

import asyncio

from alembic import context
from sqlalchemy import Connection, text

from moorage_common.db import Database
from moorage_registry.migrations import metadata

_LOCK = 0x6D6F6F73


def _migrate(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    context.configure(connection=connection, target_metadata=metadata(), compare_type=True, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()


async def _run(url: str) -> None:
    db = Database.at(url)
    try:
        async with db.write() as session:
            connection = await session.connection()
            await connection.run_sync(_migrate)
    finally:
        await db.close()


asyncio.run(_run(context.config.attributes["database_url"]))
