"""The schema and its history: alembic, applied by the registry itself when it starts."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import MetaData

from moorage_common.db import Base


def metadata() -> MetaData:
    """Every table of the registry."""
    from moorage_common import outbox  # noqa: PLC0415 - imported for their tables
    from moorage_registry.audit import tables as audit  # noqa: PLC0415
    from moorage_registry.catalog import tables as catalog  # noqa: PLC0415
    from moorage_registry.clusters import tables as clusters  # noqa: PLC0415
    from moorage_registry.deployments import tables as deployments  # noqa: PLC0415
    from moorage_registry.feedback import tables as feedback  # noqa: PLC0415
    from moorage_registry.keys import tables as keys  # noqa: PLC0415
    from moorage_registry.people import tables as people  # noqa: PLC0415
    from moorage_registry.rings import tables as rings  # noqa: PLC0415
    from moorage_registry.rollouts import tables as rollouts  # noqa: PLC0415
    from moorage_registry.tenants import tables as tenants  # noqa: PLC0415
    from moorage_registry.usage import tables as usage  # noqa: PLC0415

    known = (outbox, audit, catalog, clusters, deployments, feedback, keys, people, rings, rollouts, tenants, usage)
    assert all(known)  # noqa: S101
    return Base.metadata


def config(database_url: str) -> Config:
    """alembic's configuration for a SQLAlchemy URL."""
    settings = Config()
    settings.set_main_option("script_location", str(Path(__file__).parent))
    settings.attributes["database_url"] = database_url
    return settings


def upgrade(database_url: str) -> None:
    """Bring the database to the newest schema. Blocks, and runs an event loop of its own."""
    command.upgrade(config(database_url), "head")
