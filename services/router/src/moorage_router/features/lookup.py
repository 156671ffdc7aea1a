"""Online features of the feature-proxy, asked for on the tenant's behalf."""

import time
from collections.abc import Mapping
from typing import Any

import msgspec
import orjson

from moorage_common.contracts.features import FeatureStatus, OnlineRequest
from moorage_common.contracts.routes import FeatureJoin
from moorage_common.errors import Internal, MoorageError, Unavailable, Unprocessable
from moorage_router.features.offload import offload
from moorage_router.pool import Pool
from moorage_router.upstream import ConnectFailed, Reply, UpstreamError

_NAMED_MISSES = 8


class Column(msgspec.Struct):
    """What the join reads of `contracts.features.FeatureColumn`; msgspec takes a fifth of pydantic's time for it."""

    name: str
    values: list[Any]
    statuses: list[FeatureStatus]


class Online(msgspec.Struct):
    """What the join reads of `contracts.features.OnlineResponse`."""

    columns: list[Column]


_online = msgspec.json.Decoder(Online)


def parse(body: bytes, rows: int) -> Online:
    """The feature-proxy's answer for `rows` rows. Raises Unavailable when it is not one."""
    try:
        online = _online.decode(body)
    except msgspec.DecodeError as error:
        raise _unavailable(str(error)) from error
    for column in online.columns:
        if not len(column.values) == len(column.statuses) == rows:
            raise _unavailable(f"{column.name}: {len(column.values)} values, asked for {rows}")
    return online


def filled(
    online: Online, join: FeatureJoin, wanted: list[str], entities: Mapping[str, list[Any]]
) -> dict[str, list[Any]]:
    """The wanted features with the policy for missing ones applied. Raises Unprocessable naming the missing."""
    by_name = {column.name: column for column in online.columns}
    filled_in: dict[str, list[Any]] = {}
    missing: list[str] = []
    misses = 0
    for name in wanted:
        column = by_name.get(name)
        if column is None:
            message = f"the feature service no longer has {name}; push the version again with the service as it is now"
            raise Unprocessable(message, code="features_changed")
        values = filled_in[name] = column.values
        if column.statuses.count("present") == len(values) and None not in values:
            continue
        values = filled_in[name] = values.copy()
        for row, status in enumerate(column.statuses):
            if status == "present" and values[row] is not None:
                continue
            values[row] = join.default
            misses += 1
            if misses <= _NAMED_MISSES:
                of = ", ".join(f"{key}={rows[row]}" for key, rows in entities.items())
                missing.append(f"{name} of {of} ({status})")
    if missing and join.on_miss == "fail":
        more = f" and {misses - _NAMED_MISSES} more" if misses > _NAMED_MISSES else ""
        message = f"missing features: {'; '.join(missing)}{more}"
        raise Unprocessable(message, code="features_missing")
    return filled_in


class FeatureLookup:
    """Calls the feature-proxy."""

    def __init__(self, pool: Pool, token: str) -> None:
        self._pool = pool
        self._head = (
            f"POST /v1/features/online HTTP/1.1\r\nhost: {pool.address}\r\nauthorization: Bearer {token}\r\n"
            "content-type: application/json\r\n"
        )

    async def find(self, tenant: str, online: OnlineRequest, rows: int, deadline: float) -> Online:
        """The features of `rows` rows of entities. Raises Unavailable, Unprocessable or Internal."""
        body = orjson.dumps(online.model_dump())
        head = f"{self._head}moorage-tenant: {tenant}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        try:
            reply = await self._call(head, body, deadline)
            whole = b"".join([part async for part in reply.chunks()])
        except UpstreamError as error:
            raise _unavailable(str(error)) from error
        if reply.status != 200:
            raise _refused(reply.status, whole)
        return await offload(len(whole), parse, whole, rows)

    async def _call(self, head: bytes, body: bytes, deadline: float) -> Reply:
        """One lookup, made again once on another connection when the first broke: it changes nothing."""
        try:
            return await self._pool.exchange(head, body, deadline)
        except ConnectFailed:
            raise
        except UpstreamError:
            if time.monotonic() >= deadline:
                raise
            return await self._pool.exchange(head, body, deadline)


def _unavailable(detail: str) -> Unavailable:
    message = "the features did not come in time; try again"
    return Unavailable(message, code="features_unavailable", detail=detail, retry_after_s=1)


def _refused(status: int, body: bytes) -> MoorageError:
    """What a refusal of the feature-proxy means to the caller."""
    detail = body[:500].decode(errors="replace")
    if status >= 500 or status == 429:
        return _unavailable(detail)
    if status in (401, 403):
        return Internal("the features cannot be read; report this", code="features_refused", detail=detail)
    try:
        text = str(orjson.loads(body)["error"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        text = "the feature lookup was refused"
    return Unprocessable(text, code="features_refused", detail=detail)
