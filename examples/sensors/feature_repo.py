"""The Feast definitions: a sensor, the view of its latest readings, and the feature service `sensor_health`."""

from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Float64, Int64
from readings import FEATURES


def feature_store(directory: Path, project: str, redis_url: str) -> FeatureStore:
    """A Feast store with its registry in `directory` and its online store in the platform's features Redis.

    The project is the tenant's name: Moorage accepts no other.
    """
    url = urlsplit(redis_url)
    parts = [f"{url.hostname}:{url.port}", f"db={url.path.strip('/') or 0}"]
    if url.password:
        parts.append(f"password={url.password}")
    config = RepoConfig(
        project=project,
        provider="local",
        registry=str(directory / "registry.db"),
        online_store={"type": "redis", "connection_string": ",".join(parts)},
        offline_store={"type": "file"},
        entity_key_serialization_version=3,
    )
    return FeatureStore(config=config)


def definitions(parquet: Path) -> list[Any]:
    """What `feast apply` registers."""
    sensor = Entity(name="sensor", join_keys=["sensor_id"], value_type=ValueType.INT64)
    view = FeatureView(
        name="readings",
        entities=[sensor],
        ttl=timedelta(hours=24),
        schema=[Field(name="sensor_id", dtype=Int64), *(Field(name=name, dtype=Float64) for name in FEATURES)],
        source=FileSource(name="plant", path=str(parquet), timestamp_field="event_timestamp"),
    )
    return [sensor, view, FeatureService(name="sensor_health", features=[view])]
