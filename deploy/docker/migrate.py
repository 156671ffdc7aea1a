#!/usr/bin/env python3
"""Bring the database of MOORAGE_DATABASE_URL to this release's schema; with `--wait`, wait until another one has.

A schema newer than this release counts as there, so that a release can be rolled back.
"""

import asyncio
import os
import sys
import time

from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from moorage_common.db import Database
from moorage_registry import migrations

WAIT_S = 600
EVERY_S = 2


async def revision(url: str) -> str | None:
    """The schema's revision; None while there is no database or no schema."""
    db = Database.at(url)
    try:
        async with db.read() as session:
            found: str | None = await session.scalar(text("SELECT version_num FROM alembic_version"))
            return found
    except (SQLAlchemyError, OSError):
        return None
    finally:
        await db.close()


def is_current(url: str) -> bool:
    """Whether the schema is this release's or a newer one's."""
    found = asyncio.run(revision(url))
    scripts = ScriptDirectory.from_config(migrations.config(url))
    if found is None or found == scripts.get_current_head():
        return found is not None
    try:
        return scripts.get_revision(found) is None
    except CommandError:
        return True


def main() -> None:
    url = os.environ["MOORAGE_DATABASE_URL"]
    if sys.argv[1:] != ["--wait"]:
        migrations.upgrade(url)
        return
    deadline = time.monotonic() + WAIT_S
    while not is_current(url):
        if time.monotonic() > deadline:
            sys.exit("the schema is not there; look at the migration job")
        time.sleep(EVERY_S)


if __name__ == "__main__":
    main()
