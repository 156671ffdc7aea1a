"""Online features: what the router, the registry and tenants ask of the feature-proxy."""

from typing import Any, Literal

from pydantic import Field

from moorage_common.contracts.model import Contract

ROWS_MAX = 10_000
"""Rows of entities in one request, to the feature-proxy or to a model with features."""

FeatureStatus = Literal["present", "missing", "expired"]


class FeatureServiceInfo(Contract):
    """Answer of `GET /v1/features/services/{name}`. `fingerprint` covers names, types and order."""

    name: str
    fingerprint: str
    entities: list[str] = Field(description="Join keys.")
    features: list[str] = Field(description="`view__feature`, in the service's order.")
    datatypes: list[str] = Field(description="V2 datatype of each feature, in the same order.")


class OnlineRequest(Contract):
    """Body of `POST /v1/features/online`: one list a join key, all of the same length (rows)."""

    service: str
    entities: dict[str, list[Any]]


class FeatureColumn(Contract):
    name: str
    datatype: str
    values: list[Any]
    statuses: list[FeatureStatus]
    event_timestamps: list[float | None]


class OnlineResponse(Contract):
    service: str
    fingerprint: str
    rows: int
    columns: list[FeatureColumn]


class FeaturesForgotten(Contract):
    """Answer of `DELETE /v1/features`: ask again with `cursor`, until it is 0."""

    cursor: int = Field(ge=0)
    removed: int = Field(description="Rows of the online store removed by this call.")
