"""The feature join: entities out of a request, features from the feature-proxy, features into the request.

Named inputs when the signature has an input for every feature (`view__feature` or `feature`); else one tensor, its
columns in the signature's order, or in the order pinned at push where it names none. Entity inputs that the
signature does not know are dropped.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import orjson
import structlog
from pydantic import ValidationError

from moorage_common.contracts.features import ROWS_MAX, OnlineRequest, OnlineResponse
from moorage_common.contracts.routes import FeatureJoin, RouteVersion
from moorage_common.contracts.tensors import TensorSpec
from moorage_common.errors import BadRequest, Internal, MoorageError, Unavailable, Unprocessable
from moorage_router.routes import ServedVersion
from moorage_router.upstream import ConnectFailed, Pool, Reply, UpstreamError

log = structlog.get_logger()

Inputs = dict[str, dict[str, Any]]
_NAMED_MISSES = 8
_DEEPEST = 8


@dataclass(frozen=True, slots=True)
class Column:
    """Values of one feature, one a row; None where it is missing or expired."""

    values: list[Any]


def parse(body: bytes) -> dict[str, Any]:
    """The request as JSON with its `inputs` checked as far as the join needs. Raises BadRequest."""
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        message = f"the body is not JSON: {error}"
        raise BadRequest(message, code="bad_json") from error
    inputs = request.get("inputs") if isinstance(request, dict) else None
    if not isinstance(inputs, list) or not all(isinstance(i, dict) and isinstance(i.get("name"), str) for i in inputs):
        message = "the body needs `inputs`, a list of tensors with a name"
        raise BadRequest(message, code="bad_inputs")
    return dict(request)


def entities_of(inputs: Inputs, join: FeatureJoin) -> dict[str, list[Any]]:
    """Join key -> its values, one a row. Raises BadRequest."""
    entities: dict[str, list[Any]] = {}
    for join_key, name in join.entities.items():
        data = inputs.get(name, {}).get("data")
        if not isinstance(data, list) or not data:
            message = f"this model joins features by {join_key}: send an input named {name} with JSON data"
            raise BadRequest(message, code="entity_missing")
        entities[join_key] = _flat(data)
    if len({len(values) for values in entities.values()}) > 1:
        sizes = ", ".join(f"{join.entities[key]}: {len(values)}" for key, values in entities.items())
        message = f"the entity inputs need the same number of rows ({sizes})"
        raise BadRequest(message, code="entity_rows_differ")
    if any(len(values) > ROWS_MAX for values in entities.values()):
        message = f"a model with features takes at most {ROWS_MAX} rows in one request; split it"
        raise BadRequest(message, code="too_many_rows")
    return entities


def joined(request: dict[str, Any], join: FeatureJoin, spec: RouteVersion, columns: Mapping[str, Column]) -> bytes:
    """The request with the features in it, as JSON. Raises Unprocessable when a column has no source."""
    inputs: Inputs = {tensor["name"]: tensor for tensor in request["inputs"]}
    rows = len(next(iter(columns.values())).values) if columns else 0
    targets = {tensor.name: tensor for tensor in spec.signature.inputs}
    named = {feature: _target(feature, targets) for feature in spec.features}
    if all(target is not None for target in named.values()):
        made = {
            target.name: _named(target, columns[feature].values)
            for feature, target in named.items()
            if target is not None
        }
    else:
        target = spec.signature.inputs[0]
        made = {target.name: _stacked(target, spec.features, columns, inputs, rows)}
    used = set(join.entities.values()) - targets.keys()
    stacked = set(spec.signature.inputs[0].columns or ()) - targets.keys()
    kept = [t for name, t in inputs.items() if name not in used and name not in made and name not in stacked]
    request["inputs"] = kept + list(made.values())
    return orjson.dumps(request)


def _flat(data: list[Any]) -> list[Any]:
    """Nested data as one list. Raises BadRequest for ragged data or more than 8 levels."""
    for _level in range(_DEEPEST):
        if not data or not isinstance(data[0], list):
            return data
        if not all(isinstance(part, list) for part in data):
            message = "the data is ragged: every row needs the same form"
            raise BadRequest(message, code="bad_inputs")
        data = list(chain.from_iterable(data))
    message = f"the data is nested more than {_DEEPEST} levels deep"
    raise BadRequest(message, code="bad_inputs")


def _short(feature: str) -> str:
    return feature.rpartition("__")[2]


def _target(feature: str, targets: Mapping[str, TensorSpec]) -> TensorSpec | None:
    return targets.get(feature) or targets.get(_short(feature))


def _cast(datatype: str, values: list[Any]) -> list[Any]:
    if datatype.startswith(("INT", "UINT")):
        return [int(value) for value in values]
    return values


def _named(target: TensorSpec, values: list[Any]) -> dict[str, Any]:
    shape = [len(values)] + [1] * (len(target.shape) - 1)
    return {"name": target.name, "datatype": target.datatype, "shape": shape, "data": _cast(target.datatype, values)}


def _stacked(
    target: TensorSpec, features: list[str], columns: Mapping[str, Column], inputs: Inputs, rows: int
) -> dict[str, Any]:
    """One tensor [rows, columns], row after row."""
    by_name = {name: column.values for name, column in columns.items()}
    by_name |= {_short(name): column.values for name, column in columns.items() if _short(name) not in by_name}
    sources = []
    for name in target.columns or features:
        values = by_name.get(name)
        if values is None:
            sent = inputs.get(name, {}).get("data")
            values = _flat(sent) if isinstance(sent, list) else None
        if values is None or len(values) != rows:
            message = f"column {name} is neither a feature nor an input with {rows} rows; send it as an input"
            raise Unprocessable(message, code="column_missing")
        sources.append(_cast(target.datatype, values))
    data = [value for row in zip(*sources, strict=True) for value in row]
    return {"name": target.name, "datatype": target.datatype, "shape": [rows, len(sources)], "data": data}


def filled(
    response: OnlineResponse, join: FeatureJoin, wanted: list[str], entities: Mapping[str, list[Any]]
) -> dict[str, Column]:
    """The wanted features with the policy for missing ones applied. Raises Unprocessable naming the missing."""
    by_name = {column.name: column for column in response.columns}
    filled_in: dict[str, Column] = {}
    missing: list[str] = []
    misses = 0
    for name in wanted:
        column = by_name.get(name)
        if column is None:
            message = f"the feature service no longer has {name}; push the version again with the service as it is now"
            raise Unprocessable(message, code="features_changed")
        values = list(column.values)
        for row, status in enumerate(column.statuses):
            if status == "present" and values[row] is not None:
                continue
            values[row] = join.default
            misses += 1
            if misses <= _NAMED_MISSES:
                of = ", ".join(f"{key}={rows[row]}" for key, rows in entities.items())
                missing.append(f"{name} of {of} ({status})")
        filled_in[name] = Column(values)
    if missing and join.on_miss == "fail":
        more = f" and {misses - _NAMED_MISSES} more" if misses > _NAMED_MISSES else ""
        message = f"missing features: {'; '.join(missing)}{more}"
        raise Unprocessable(message, code="features_missing")
    return filled_in


class FeatureJoiner:
    """Asks the feature-proxy on the tenant's behalf."""

    def __init__(self, pool: Pool, token: str) -> None:
        self.pool = pool
        self._head = (
            f"POST /v1/features/online HTTP/1.1\r\nhost: {pool.address}\r\nauthorization: Bearer {token}\r\n"
            "content-type: application/json\r\n"
        )

    async def join(self, served: ServedVersion, body: bytes, *, json_only: bool, deadline: float) -> bytes:
        """The body with features. Raises BadRequest, Unprocessable or Unavailable."""
        join = served.features
        if join is None:
            return body
        if not json_only:
            message = "a model with features takes plain JSON: send the inputs without binary data or compression"
            raise BadRequest(message, code="features_need_json")
        request = parse(body)
        entities = entities_of({tensor["name"]: tensor for tensor in request["inputs"]}, join)
        columns = await self._columns(served, join, entities, deadline)
        try:
            return joined(request, join, served.spec, columns)
        except (TypeError, ValueError, OverflowError) as error:
            message = "the features cannot be cast to the model's input; check the types of the feature service"
            raise Unprocessable(message, code="features_cast", detail=str(error)) from error

    async def _columns(
        self, served: ServedVersion, join: FeatureJoin, entities: dict[str, list[Any]], deadline: float
    ) -> dict[str, Column]:
        online = OnlineRequest(service=served.spec.feature_service or "", entities=entities)
        ends = min(deadline, time.monotonic() + join.deadline_ms / 1000)
        try:
            return filled(await self._fetch(served.tenant, online, ends), join, served.spec.features, entities)
        except Unavailable as error:
            if join.on_miss == "fail":
                raise
            log.warning("features defaulted", model=served.model, detail=error.detail)
            rows = len(next(iter(entities.values())))
            return {name: Column([join.default] * rows) for name in served.spec.features}

    async def _fetch(self, tenant: str, online: OnlineRequest, deadline: float) -> OnlineResponse:
        body = orjson.dumps(online.model_dump())
        head = f"{self._head}moorage-tenant: {tenant}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        message = "the features did not come in time; try again"
        try:
            reply = await self._call(head, body, deadline)
            whole = b"".join([part async for part in reply.chunks()])
        except UpstreamError as error:
            raise Unavailable(message, code="features_unavailable", detail=str(error), retry_after_s=1) from error
        if reply.status != 200:
            raise _refused(reply.status, whole, message)
        try:
            return OnlineResponse.model_validate_json(whole)
        except ValidationError as error:
            raise Unavailable(message, code="features_unavailable", detail=str(error), retry_after_s=1) from error

    async def _call(self, head: bytes, body: bytes, deadline: float) -> Reply:
        """One lookup, made again once on another connection when the first broke: it changes nothing."""
        try:
            return await self.pool.exchange(head, body, deadline)
        except ConnectFailed:
            raise
        except UpstreamError:
            if time.monotonic() >= deadline:
                raise
            return await self.pool.exchange(head, body, deadline)


def _refused(status: int, body: bytes, message: str) -> MoorageError:
    """What a refusal of the feature-proxy means to the caller."""
    detail = body[:500].decode(errors="replace")
    if status >= 500 or status == 429:
        return Unavailable(message, code="features_unavailable", detail=detail, retry_after_s=1)
    if status in (401, 403):
        return Internal("the features cannot be read; report this", code="features_refused", detail=detail)
    try:
        text = str(orjson.loads(body)["error"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        text = "the feature lookup was refused"
    return Unprocessable(text, code="features_refused", detail=detail)
