"""The schema and its migrations."""

import asyncio

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from moorage_common.db import Database
from moorage_registry import migrations


async def test_models_and_migrations_agree(database_url: str) -> None:
    await asyncio.to_thread(migrations.upgrade, database_url)

    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, migrations.metadata()))

    db = Database.at(database_url)
    try:
        async with db.read() as session:
            assert await (await session.connection()).run_sync(differences) == []
    finally:
        await db.close()


async def test_upgrading_again_changes_nothing(database_url: str) -> None:
    await asyncio.to_thread(migrations.upgrade, database_url)
    await asyncio.to_thread(migrations.upgrade, database_url)
