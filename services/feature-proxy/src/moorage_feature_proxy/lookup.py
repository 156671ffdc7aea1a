"""Online lookup: a feature service and its entities to columns of values, each with its status."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from moorage_common.clock import Clock
from moorage_common.contracts.features import ROWS_MAX, FeatureColumn, FeatureStatus, OnlineRequest, OnlineResponse
from moorage_common.contracts.names import TenantId
from moorage_common.errors import BadRequest
from moorage_feature_proxy.definitions import Service, View
from moorage_feature_proxy.metrics import Metrics
from moorage_feature_proxy.online_store import OnlineStore, Read, Row
from moorage_feature_proxy.uploads import Uploads
from moorage_feature_proxy.values import decode, encode_entities

CELLS_MAX = 100_000
"""Rows times views of one request: what is read from the online store."""


@dataclass(frozen=True, slots=True)
class ViewPlan:
    """The reads of one view: distinct keys, and which of them each row of the request takes."""

    view: View
    keys: list[bytes]
    key_of_row: list[int]

    @property
    def read(self) -> Read:
        return Read(self.keys, [*(f.field for f in self.view.features), self.view.timestamp_field])


@dataclass(frozen=True)
class Lookup:
    """Answers online requests. Raises NotFound, BadRequest and Unavailable."""

    uploads: Uploads
    store: OnlineStore
    metrics: Metrics
    clock: Clock

    async def online(self, tenant: TenantId, request: OnlineRequest) -> OnlineResponse:
        service = (await self.uploads.get(tenant)).service(request.service)
        rows = row_count(service, request.entities)
        plans = [plan(tenant, view, request.entities) for view in service.views]
        replies = await self.store.read([p.read for p in plans])
        now = self.clock()
        columns = [c for p, reply in zip(plans, replies, strict=True) for c in assemble(p, reply, now)]
        statuses = [c.statuses for c in columns]
        missing, expired = (sum(s.count(what) for s in statuses) for what in ("missing", "expired"))
        self.metrics.served(tenant, service.name, rows, missing, expired)
        return OnlineResponse.model_construct(
            service=service.name, fingerprint=service.fingerprint, rows=rows, columns=columns
        )


def row_count(service: Service, entities: Mapping[str, Sequence[Any]]) -> int:
    """Rows that the request asks for: the common length of its lists. Raises BadRequest."""
    wanted, given = set(service.join_keys), set(entities)
    if wanted != given:
        message = f"feature service {service.name!r} takes the entities {sorted(wanted)}, and got {sorted(given)}"
        raise BadRequest(message, code="entity_mismatch")
    lengths = {len(column) for column in entities.values()}
    if len(lengths) > 1:
        raise BadRequest("give as many values for each entity; the lists differ in length", code="entity_mismatch")
    rows = lengths.pop() if lengths else 0
    fit = min(ROWS_MAX, CELLS_MAX // max(len(service.views), 1))
    if rows > fit:
        message = f"{rows} rows, and at most {fit} of feature service {service.name!r} in one request; split it"
        raise BadRequest(message, code="too_many_rows")
    return rows


def plan(tenant: TenantId, view: View, entities: Mapping[str, Sequence[Any]]) -> ViewPlan:
    """Keys in Feast's layout, each once however often its entity is asked for. Raises BadRequest."""
    columns = [encode_entities(key.asked, key.kind, entities[key.asked]) for key in view.join_keys]
    project = tenant.encode()
    places: dict[bytes, int] = {}
    key_of_row = [
        places.setdefault(b"".join((view.key_prefix, *parts, project)), len(places))
        for parts in zip(*columns, strict=True)
    ]
    return ViewPlan(view, list(places), key_of_row)


def assemble(planned: ViewPlan, reply: Sequence[Row], now: float) -> Iterable[FeatureColumn]:
    """A column a feature of the view, a value, a status and a time (seconds since 1970) a row."""
    view = planned.view
    times = [_seconds(row[-1]) for row in reply]
    expired = [view.ttl_s is not None and at is not None and now - at > view.ttl_s for at in times]
    times_of_rows = [times[place] for place in planned.key_of_row]
    for index, feature in enumerate(view.features):
        found: list[tuple[Any, FeatureStatus]] = []
        for place, row in enumerate(reply):
            value = decode(feature.kind, row[index]) if times[place] is not None else None
            if value is None:
                found.append((None, "missing"))
            else:
                found.append((None, "expired") if expired[place] else (value, "present"))
        yield FeatureColumn.model_construct(
            name=feature.name,
            datatype=feature.kind.datatype,
            values=[found[place][0] for place in planned.key_of_row],
            statuses=[found[place][1] for place in planned.key_of_row],
            event_timestamps=times_of_rows,
        )


def _seconds(stored: bytes | None) -> float | None:
    if stored is None:
        return None
    at = Timestamp.FromString(stored)
    return float(at.seconds + at.nanos / 1e9)
