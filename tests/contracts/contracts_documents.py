"""The three services' OpenAPI documents, made from the source: nothing runs."""

from pathlib import Path
from typing import Any

from moorage_common.openapi import RULE, document_of
from moorage_feature_proxy import app as features
from moorage_feature_proxy.settings import Settings as FeatureSettings
from moorage_registry import app as registry
from moorage_registry.metrics import Metrics
from moorage_registry.settings import Settings as RegistrySettings
from moorage_router import openapi

Json = dict[str, Any]


def documents() -> dict[str, Json]:
    """By service."""
    settings = RegistrySettings(
        database_url="sqlite+aiosqlite://", pepper="0123456789abcdef", artifact_dir=Path("artifacts"),
        public_url="http://127.0.0.1",
    )  # fmt: skip
    feature_settings = FeatureSettings(
        pepper="0123456789abcdef", redis_url="redis://127.0.0.1", state_dir=Path("state")
    )
    return {
        "registry": document_of(registry.create_app(settings, Metrics())),
        "router": openapi.document(),
        "features": document_of(features.create_app(feature_settings)[0]),
    }


def rules_in(document: Json) -> dict[str, str | None]:
    """Rule by operation, `GET /v1/models`."""
    return {
        f"{method.upper()} {path}": operation.get(RULE)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
